/**
 * Ends its lines with CR LF.
 */
function Dos() {
  return <p />;
}
