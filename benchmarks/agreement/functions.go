// Functions of Go files with their documentation, as go/parser and go/ast see them: one JSON object a line.
package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	out := json.NewEncoder(os.Stdout)
	filepath.Walk(os.Args[1], func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			return nil
		}
		for _, declaration := range parsed.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok {
				out.Encode(map[string]any{"path": path, "line": files.Position(function.Pos()).Line,
					"name": function.Name.Name, "doc": function.Doc.Text()})
			}
		}
		return nil
	})
}
