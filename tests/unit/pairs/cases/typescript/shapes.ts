/* A licence that nobody reads. */
import { Component } from "x";

/** Adds two numbers. */
export function add(a: number, b: number): number {
  return a + b;
}

/** Takes strings and numbers alike. */
export function over(a: string): string;
export function over(a: number): number;
export function over(a: any): any {
  return a;
}

/** Says what the first overload does. */
function twice(a: string): string;
/** Says what the last overload does. */
function twice(a: number): number;
function twice(a: any): any {
  return a + a;
}

/** Describes another one. */
declare function other(a: string): void;
function undocumented(): void {
  other("");
}

/** Holds a generic arrow. */
export const pick = <T, K extends keyof T>(from: T, key: K): T[K] => {
  return from[key];
};

/** Waits for a while, then goes on. */
export default async function* wait(ms: number): AsyncGenerator<number> {
  yield ms;
}

/**
 * Shows a list of rows.
 *
 * @typeParam T - of a row
 */
@Component({
  selector: "rows",
  template: `<p>{{ a }}</p>`,
})
export class Rows<T> extends Base implements Shown {
  /** How many there are. */
  private count = 0;

  /** Makes an empty list. */
  constructor(private readonly source: Source<T>) {
    super();
  }

  /** Reads one row of it. */
  @HostListener("window:scroll", ["$event"])
  @Memo({ seconds: 3 })
  protected read(at: number): T | undefined {
    return this.source.get(at);
  }

  @Input()
  /** Dangles below a decorator. */
  dangling(): void {
    this.count++;
  }

  /** Tells its size. */
  get size(): number {
    return this.count;
  }

  /** Gives a row back by key. */
  find(key: string): T;
  find(key: number): T;
  find(key: any): T {
    return this.source.find(key);
  }

  /** Has no body at all. */
  abstract shown(): void;

  /** Handles a click on it. */
  private readonly onClick = async (event: Event): Promise<void> => {
    event.stop();
  };

  /** Compares privately by value. */
  static #same(a: unknown, b: unknown): boolean {
    return a === b;
  }

  /** Reads it as text. */
  toString(): string {
    return "rows";
  }
}

/** Names a row of it. */
interface Named {
  /** Says its name in full. */
  name(): string;
}

namespace Inner {
  /** Lives inside a namespace. */
  export function nested(): void {
    /** Lives inside a function. */
    const local = (a: string): a is "b" => {
      return a === "b";
    };
    local("b");
  }
}

const table = {
  /** Runs in an object literal. */
  run(this: Window): number {
    return 1;
  },
  /** Goes by a function expression. */
  go: function (): number {
    return 2;
  },
};

// Only a line comment here.
function lineComment(): void {
  table.run();
}

/* Has but one star. */
function plainBlock(): void {
  table.run();
}

/**
 * {@link Rows.read | Reads} one row, `null` where there is none.
 *
 * @remarks More of it.
 * @param at - the row
 */
export function linked(at: number): null {
  return null;
}

/** Asserts that it is text. */
function isText(value: unknown): asserts value is string {
  if (typeof value !== "string") throw new TypeError();
}

/** Narrows with `satisfies` and casts. */
const cast = function <T>(value: unknown) {
  return <T>value satisfies T;
};

/** Stands above a blank line. */

export function spaced(): number {
  return 1;
}

/** Is the test of it. */
function testIt(): void {
  spaced();
}

declare module "y" {
  /** Declared without a body. */
  export function gone(): void;
}
