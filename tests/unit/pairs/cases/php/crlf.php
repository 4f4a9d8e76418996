<?php
/**
 * Ends its lines with CR LF.
 */
function dos() {
    return 1;
}
