// Named functions and methods of JavaScript or TypeScript files with their documentation, as TypeScript's compiler sees them:
// JSON lines. Of overloads the implementation is told, with the last overload's documentation where it has none of its own.
const fs = require("fs"), path = require("path"), ts = require("typescript");

const [folder, ending] = [process.argv[2], process.argv[3] || ".js"];
const kinds = { ".js": ts.ScriptKind.JS, ".ts": ts.ScriptKind.TS, ".tsx": ts.ScriptKind.TSX };

function* files(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const place = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* files(place);
    else if (entry.name.endsWith(ending)) yield place;
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

function documentation(node) {
  const docs = ts.getJSDocCommentsAndTags(node).filter((doc) => doc.kind === ts.SyntaxKind.JSDoc);
  if (docs.length || !ts.isFunctionLike(node) || !node.name || !node.parent) return docs;
  const siblings = node.parent.members || node.parent.statements || [];
  for (let at = siblings.indexOf(node) - 1; at >= 0; at--) {
    const other = siblings[at];
    if (!ts.isFunctionLike(other) || other.body || !other.name || other.name.getText() !== node.name.getText()) break;
    const found = ts.getJSDocCommentsAndTags(other).filter((doc) => doc.kind === ts.SyntaxKind.JSDoc);
    if (found.length) return found;
  }
  return docs;
}

for (const place of files(folder)) {
  const source = ts.createSourceFile(place, fs.readFileSync(place, "utf8"), ts.ScriptTarget.Latest, true, kinds[ending]);
  (function visit(node) {
    const name = named(node);
    if (name !== null) {
      const docs = documentation(node);
      const doc = docs.length ? docs[docs.length - 1] : null;
      const line = source.getLineAndCharacterOfPosition(node.getStart(source, false)).line + 1;
      console.log(JSON.stringify({ path: place, line, name, doc: doc ? ts.getTextOfJSDocComment(doc.comment) || "" : "" }));
    }
    ts.forEachChild(node, visit);
  })(source);
}
