/**
 * Ends its lines with CR LF.
 */
function dos(a: string): string;
function dos(a: any): any {
  return a;
}
