// Named functions and methods of JavaScript files with their documentation, as TypeScript's compiler sees them: JSON lines.
const fs = require("fs"), path = require("path"), ts = require("typescript");

function* files(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const place = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* files(place);
    else if (entry.name.endsWith(".js")) yield place;
  }
}

const isFunction = (node) => node && (ts.isFunctionExpression(node) || ts.isArrowFunction(node));

function named(node) {
  if (ts.isFunctionDeclaration(node) && node.name && node.body) return node.name.text;
  if ((ts.isMethodDeclaration(node) || ts.isAccessor(node) || ts.isConstructorDeclaration(node)) && node.body)
    return node.name ? node.name.getText() : "constructor";
  if ((ts.isVariableDeclaration(node) || ts.isPropertyAssignment(node) || ts.isPropertyDeclaration(node)) && isFunction(node.initializer))
    return node.name.getText();
  const assigned = ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.EqualsToken && isFunction(node.right);
  if (assigned && !ts.isElementAccessExpression(node.left)) // map[expression] = function has no name
    return node.left.getText();
  return null;
}

for (const place of files(process.argv[2])) {
  const source = ts.createSourceFile(place, fs.readFileSync(place, "utf8"), ts.ScriptTarget.Latest, true, ts.ScriptKind.JS);
  (function visit(node) {
    const name = named(node);
    if (name !== null) {
      const docs = ts.getJSDocCommentsAndTags(node).filter((doc) => doc.kind === ts.SyntaxKind.JSDoc);
      const doc = docs.length ? docs[docs.length - 1] : null;
      const line = source.getLineAndCharacterOfPosition(node.getStart(source, false)).line + 1;
      console.log(JSON.stringify({ path: place, line, name, doc: doc ? ts.getTextOfJSDocComment(doc.comment) || "" : "" }));
    }
    ts.forEachChild(node, visit);
  })(source);
}
