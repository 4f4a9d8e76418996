<!DOCTYPE html>
<html><head><title>Shapes</title></head>
<?php
/**
 * Shapes that documented functions come in.
 * @file
 */

namespace Example\Shapes;

use Closure;

/** Adds two numbers together. */
function add(int $a, int $b): int {
    return $a + $b;
}
?>
<p>/** Not a comment here. */</p>
<?php
/** Follows some HTML. */
function afterHtml() {
    return 1;
}

if (!function_exists('conditional')) {
    /**
     * Declared on a condition.
     *
     * Long words follow.
     *
     * @param string $x what
     * @return string
     */
    function conditional($x) {
        return $x;
    }
}

/** Returns a reference. */
function &reference(array &$a) {
    return $a[0];
}

/** Has attributes below it. */
#[Pure]
#[Deprecated(reason: "old")]
function attributed() {
    return 1;
}

/** Stands above a line comment. */
// a remark
# and another one
function remarked() {
    return 1;
}

/** Stands above a blank line. */

function spaced() {
    return 1;
}

# Only a hash comment.
function hashComment() {
    return 1;
}

/* Has but one star. */
function plainBlock() {
    return 1;
}

/** Describes the constant alone. */
const LIMIT = 10;
function afterCode() {
    return LIMIT;
}

/** A base of shapes. */
abstract class Shape implements HasArea
{
    use Colours;

    /** @var int */
    private $n = 0;

    /** Makes a new shape. */
    public function __construct(private int $w) {
        $this->n = $w;
    }

    /** Has no body yet. */
    abstract protected function area(): float;

    /** Builds one from {@see Shape text}. */
    final public static function parse(string $text): static {
        return new static(strlen($text));
    }

    /** Reads what is hidden. */
    public function __get($name) {
        return $this->$name;
    }

    /** {@inheritdoc} */
    public function inherited() {
        return 1;
    }

    /** Prints a heredoc text. */
    public function heredoc() {
        return <<<HTML
/** No doc in it. */
function notAFunction() {}
HTML;
    }

    /** Prints a nowdoc text. */
    public function nowdoc() {
        return <<<'X'
} function neither() {
X;
    }
}

/** A trait of colours. */
trait Colours {
    /** Paints it in red. */
    protected function paint() {
        $this->colour = 'red';
    }
}

/** The known suits. */
enum Suit: string {
    case Hearts = 'H';

    /** Tells the suit's colour. */
    public function colour(): string {
        return 'Red';
    }
}

interface Drawable {
    /** Draws without a body. */
    public function draw();
}

/** Makes an anonymous class. */
function anonymous() {
    return new class extends Shape {
        /** Lies in the anonymous one. */
        public function area(): float {
            return 0.0;
        }
    };
}

/** Holds an inner function. */
function holder() {
    /** Lies inside the holder. */
    function held() {
        return 1;
    }
    return held();
}

/** Given to a variable only. */
$closure = function ($x) use ($closure) {
    return $x;
};

/** Größe der Fläche. */
function größe($ä) {
    return $ä;
}

	/** Indented by tabs. */
	function tabbed($x) {
		if ($x) {
			return 1;
		}
	}

/** A test of it. */
function testIt() {
    return 1;
}

class ShapeTest {
    /** Helps the tests only. */
    function help() {
        return 1;
    }
}
?>
<footer><?= add(1, 2) ?></footer>
