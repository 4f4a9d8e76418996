class Dos
{
    /// <summary>
    /// Ends its lines with CR LF.
    /// </summary>
    int Ends()
    {
        return 1;
    }
}
