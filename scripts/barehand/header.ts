// The parts of a script's header, which is its help.

/** An option as a header describes it. */
export interface Described {
  /** what its value is called: SIZE; '' for a flag */
  value: string;
  /** the line that describes it */
  text: string;
}

/** A header, taken apart. */
export interface Header {
  /** what the script does, without its name */
  purpose: string;
  /** the sections in their order: heading, and text */
  sections: [heading: string, text: string][];
  /** by the word on the command line: `dry-run` */
  options: Map<string, Described>;
}

/**
 * The line of an option: `* -m, --memory SIZE   memory limit`. What a value is called has a capital or a `|`. An asterisk
 * marks a usual option; lines below a marked one add to what it says.
 */
export const optionLine =
  /^(?<mark>[ *]) +(?<term>(?:-(?<short>\w), )?--(?<long>[\w-]+)(?:[ =](?<value>\[?(?=\S*\||[A-Z])\S+))?)(?: +(?<text>\S.*))?$/;

export function parseHeader(header: string): Header {
  const [first = '', ...rest] = header.split(/^([A-Z]+(?: [A-Z]+)*)$/m);
  const sections = rest.flatMap((heading, index): [string, string][] =>
    index % 2 === 0 ? [[heading, (rest[index + 1] ?? '').replace(/^\n+|\s+$/g, '')]] : [],
  );
  const options = new Map<string, Described>();
  for (const [heading, text] of sections)
    if (/\bOPTIONS$/.test(heading))
      for (const line of text.split('\n')) {
        const { long, value = '', text: described = '' } = optionLine.exec(line)?.groups ?? {};
        if (long) options.set(long, { value, text: described });
      }
  return { purpose: first.trim().replace(/^\S+: /, ''), sections, options };
}
