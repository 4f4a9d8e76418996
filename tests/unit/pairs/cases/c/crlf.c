/** Ends its lines with CR LF. */
int dos(void)
{
    return 1;
}
