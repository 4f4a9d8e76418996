class Dos {
    /**
     * Ends its lines with CR LF.
     */
    int dos() {
        return 1;
    }
}
