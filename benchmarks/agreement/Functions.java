import com.sun.source.doctree.*;
import com.sun.source.tree.CompilationUnitTree;
import com.sun.source.tree.MethodTree;
import com.sun.source.util.*;
import java.nio.file.*;
import java.util.*;
import java.util.stream.*;
import javax.tools.*;

/** Methods of Java files with their documentation, as javac and its doc trees see them: one JSON object a line. */
public class Functions {
    public static void main(String[] arguments) throws Exception {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        StandardJavaFileManager manager = compiler.getStandardFileManager(d -> {}, null, null);
        List<Path> paths;
        try (Stream<Path> found = Files.walk(Paths.get(arguments[0]))) {
            paths = found.filter(p -> p.toString().endsWith(".java")).sorted().collect(Collectors.toList());
        }
        for (Path path : paths) {
            JavacTask task = (JavacTask) compiler.getTask(null, manager, d -> {}, null, null, manager.getJavaFileObjects(path));
            CompilationUnitTree unit = task.parse().iterator().next();
            DocTrees docs = DocTrees.instance(task);
            new TreePathScanner<Void, Void>() {
                @Override
                public Void visitMethod(MethodTree method, Void unused) {
                    DocCommentTree doc = docs.getDocCommentTree(getCurrentPath());
                    long at = begin(docs.getSourcePositions(), unit, method);
                    boolean isConstructor = method.getReturnType() == null;
                    if (at >= 0 && (method.getReturnType() != null || doc != null || method.getBody() != null)) {
                        String text = doc == null ? "" : doc.getFullBody().stream().map(Functions::text).collect(Collectors.joining());
                        System.out.printf("{\"path\": %s, \"line\": %d, \"name\": %s, \"doc\": %s}%n", quoted(path.toString()),
                            unit.getLineMap().getLineNumber(at), quoted(isConstructor ? type(getCurrentPath()) : method.getName().toString()), quoted(text));
                    }
                    return super.visitMethod(method, unused);
                }
            }.scan(unit, null);
        }
    }

    /** Where a method begins, the annotations before it left out, as extraction does. */
    static long begin(SourcePositions positions, CompilationUnitTree unit, MethodTree method) {
        long at = positions.getStartPosition(unit, method);
        try {
            CharSequence source = unit.getSourceFile().getCharContent(true);
            for (var annotation : method.getModifiers().getAnnotations()) {
                if (positions.getStartPosition(unit, annotation) != at) break;
                at = positions.getEndPosition(unit, annotation);
                while (Character.isWhitespace(source.charAt((int) at))) at++;
            }
        } catch (java.io.IOException error) {
            return at;
        }
        return at;
    }

    static String type(TreePath path) {
        return ((com.sun.source.tree.ClassTree) path.getParentPath().getLeaf()).getSimpleName().toString();
    }

    static String text(DocTree tree) {
        if (tree instanceof TextTree) return ((TextTree) tree).getBody();
        if (tree instanceof LiteralTree) return ((LiteralTree) tree).getBody().getBody();
        if (tree instanceof StartElementTree) {
            String name = ((StartElementTree) tree).getName().toString().toLowerCase();
            return Set.of("p", "ul", "ol", "li", "pre", "table", "dl", "div", "blockquote").contains(name) ? "\n\n" : "";
        }
        if (tree instanceof LinkTree) {
            LinkTree link = (LinkTree) tree;
            String label = link.getLabel().stream().map(Functions::text).collect(Collectors.joining());
            return label.isEmpty() ? link.getReference().getSignature() : label;
        }
        return tree instanceof EndElementTree ? "" : " " + tree + " ";
    }

    static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) out.append(c < 32 || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : c);
        return out.append('"').toString();
    }
}
