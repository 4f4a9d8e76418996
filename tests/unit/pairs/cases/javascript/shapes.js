#!/usr/bin/env node
/** @fileoverview Shapes that documented functions come in. */

/** Adds two numbers together. */
function add(a, b) {
  return a + b;
}

/**
 * Waits for a while.
 * And then goes on.
 *
 * A second paragraph.
 * @param {number} ms how long
 * @returns {Promise<void>}
 */
export async function wait(ms) {
  await sleep(ms);
}

/** Yields each of the items. */
export default function* each(items) {
  yield* items;
}

/** Doubles what it gets. */
export const double = (n) => n * 2;

/** Halves what it gets. */
let halve = function (n) {
  return n / 2;
};

/** Named twice, known by the outer name. */
var outer = function inner(n) {
  return inner(n - 1);
};

/** Exported under a name. */
exports.visible = function () {
  return 1;
};

/** Given two names at once. */
var both = module.exports.both = function () {
  return 2;
};

/** Lies on the prototype. */
Shape.prototype.area = function () {
  return this.w * this.h;
};

class Circle extends Shape {
  /** Makes a new circle. */
  constructor(r) {
    super(r);
  }

  /** The radius squared. */
  get squared() {
    return this.r ** 2;
  }

  /** Builds one {@link Circle} from {@code text}. */
  @memoize
  static async parse(text) {
    return new Circle(+text);
  }

  /** Hidden from the outside. */
  #secret() {
    return 42;
  }

  /** Bound for good. */
  onClick = (event) => {
    this.hit(event);
  };

  /** Shows the circle as text. */
  toString() {
    return "circle";
  }

  /** Named by computation. */
  [Symbol.iterator]() {
    return null;
  }
}

/** Unit of an anonymous class. */
const Unit = class {
  /** The size of one unit. */
  size() {
    return 1;
  }
};

const handlers = {
  /** Opens the door wide. */
  open() {
    return true;
  },
  /** Closes the door again. */
  close: function () {
    return false;
  },
  /** Rings the bell once. */
  "ring": () => {
    return "ding";
  },
};

/** Stands above a remark to a tool. */
// eslint-disable-next-line no-unused-vars
function remarked() {
  return 1;
}

/** Stands above a blank line. */

function spaced() {
  return 1;
}

/** Describes the constant. */
const limit = 10;
function afterCode() {
  return limit;
}

/* Has but one star. */
function plainBlock() {
  return 1;
}

// Only a line comment here.
function lineComment() {
  return 1;
}

/**
 * @description Described by a tag.
 * @returns {string} nothing
 */
function described() {
  return "";
}

/** Holds an inner one. */
function holder() {
  /** Lies inside the holder. */
  function held() {
    return 1;
  }
  return held;
}

/** Größe der Fläche. */
function flächenGröße(ä) {
  return ä * ä;
}

/** Templates with `code` &amp; <b>bold</b> words, [linked](http://a.b). */
function template(x) {
  return `/** no doc */ function no() {} ${x}`;
}

	/** Indented by tabs. */
	function tabbed(x) {
		if (x) {
			return 1;
		}
	}

/** A test of shapes. */
function testShapes() {
  return 1;
}

/** First of two docs. */
/** Second of two docs. */
function twice() {
  return 2;
}

/** Destructures { a, b } of it. */
const pick = async ({ a, b = {} }, ...rest) => {
  return [a, b, rest];
};
