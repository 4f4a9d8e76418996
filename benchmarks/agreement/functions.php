<?php
// Functions of PHP files with their documentation, as PHP's own tokenizer sees them (nothing is run): one JSON object a line.
$files = new RecursiveIteratorIterator(new RecursiveDirectoryIterator($argv[1], FilesystemIterator::SKIP_DOTS));
foreach ($files as $file) {
    if ($file->getExtension() !== "php") {
        continue;
    }
    $doc = "";
    $tokens = PhpToken::tokenize(file_get_contents($file->getPathname()));
    foreach ($tokens as $at => $token) {
        if ($token->is(T_DOC_COMMENT)) {
            $doc = $token->text;
        } elseif ($token->is([";", "{", "}"])) {
            $doc = "";
        } elseif ($token->is(T_FUNCTION)) {
            for ($next = $at + 1; $tokens[$next]->isIgnorable() || $tokens[$next]->text === "&"; $next++);
            if ($tokens[$next]->text !== "(" && !use_statement($tokens, $at)) {
                $row = ["path" => $file->getPathname(), "line" => $token->line, "name" => $tokens[$next]->text, "doc" => $doc];
                echo json_encode($row, JSON_INVALID_UTF8_SUBSTITUTE), "\n";
                $doc = "";
            }
        }
    }
}

function use_statement(array $tokens, int $at): bool
{
    for ($at--; $at > 0 && $tokens[$at]->isIgnorable(); $at--);
    return $at > 0 && $tokens[$at]->is(T_USE);
}
