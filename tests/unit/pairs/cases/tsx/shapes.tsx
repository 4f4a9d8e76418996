import * as React from "react";

/** Shows one row of a list. */
export function Row({ name }: { name: string }) {
  return <li>{name}</li>;
}

/** Shows all rows of a list. */
export const Rows: React.FC<Props> = ({ rows }) => {
  return (
    <ul>
      {rows.map((row) => (
        <Row key={row} name={row} />
      ))}
    </ul>
  );
};

/** Takes a generic list, with a comma for the grammar. */
export const Generic = <T,>(props: { items: T[] }) => {
  return <>{props.items.length}</>;
};

/** Remembers what it has shown. */
const Memo = React.memo(function inner() {
  return <p>/** no documentation */</p>;
});

/** Shows with a class. */
export class Panel extends React.Component<Props> {
  /** Starts without a state. */
  constructor(props: Props) {
    super(props);
  }

  /** Closes it on a click. */
  private close = (): void => {
    this.setState({ open: false });
  };

  /** Renders the whole panel. */
  render() {
    return <div onClick={this.close}>{/* a remark */}</div>;
  }

  // Only a line comment.
  plain() {
    return <p />;
  }

  @bound
  /** Dangles below a decorator. */
  dangling() {
    return <p />;
  }
}

/** Uses a state in it. */
export default function useCount(start: number): [number, () => void] {
  const [count, set] = React.useState(start);
  /** Adds one to the count. */
  const more = () => {
    set(count + 1);
  };
  return [count, more];
}

/**
 * Forwards a reference to an <input> of it.
 *
 * @param props - of it
 */
export function Input(props: Props): JSX.Element {
  return <input {...props} />;
}

/** Overloaded for tests alone. */
function shown(a: string): JSX.Element;
function shown(a: any) {
  return <b>{a}</b>;
}

/* Has but one star. */
function plainBlock() {
  return <p />;
}

const table = {
  /** Renders from a table. */
  cell(value: string) {
    return <td>{value}</td>;
  },
  /** Renders by an arrow. */
  head: (value: string) => <th>{value}</th>,
};

/** Escapes what is in it. */
function entities() {
  return <p>&nbsp;{"}"}</p>;
}

/**
 * @returns only a tag
 */
function onlyTag() {
  return <p />;
}

/** Is the test of it. */
function testIt() {
  return <p />;
}

interface Props {
  /** Says what is shown there. */
  render(): JSX.Element;
}

enum Kind {
  /** Is no function at all. */
  Open,
}

/** Stands above a blank line. */

export const spaced = function () {
  return <p />;
};

/** Wraps what is inside it. */
export async function wrap<P extends object>(Inner: React.ComponentType<P>) {
  return function Wrapped(props: P) {
    return <Inner {...props} />;
  };
}
