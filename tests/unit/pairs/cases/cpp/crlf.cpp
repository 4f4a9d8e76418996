/// Ends its lines
/// with CR LF.
template <class T>
int dos(T a)
{
    return 1;
}
