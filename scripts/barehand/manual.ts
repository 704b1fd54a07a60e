// Manual pages, man-pages(7) and groff_man(7), from the headers of the scripts.
import { optionLine, parseHeader } from './header.ts';

/** Text for roff: no escapes, no requests at the start of a line; hyphens of options stay ASCII, so they can be pasted. */
const plain = (text: string) =>
  text
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^([.'])/gm, '\\&$1');

/** The name of the manual page of a script. */
export const pageName = (name: string) => (name === 'barehand' ? name : `barehand-${name}`);

/** The names of scripts as a reader of man(1) types them. `within`: as references to other pages. */
const named = (text: string, within: boolean) =>
  text.replace(/\b([a-z]+(?:-[a-z]+)?)\.ts\b/g, (_, name: string) =>
    within ? `${pageName(name)}(1)` : `barehand ${name}`.replace('barehand barehand', 'barehand'),
  );

/** Lines as they are, in a fixed layout. */
const fixed = (text: string) => `.nf\n${plain(text)}\n.fi\n`;

/** A paragraph: filled, unless its columns have a meaning. A heading is followed by the first one without a request. */
function paragraph(text: string, index: number): string {
  const lines = text.split('\n').map((line) => line.replace(/^ {2}/, ''));
  const isFixed = lines.some((line) => /^ |\S {2,}\S/.test(line));
  return `${index > 0 ? '.PP\n' : ''}${isFixed ? fixed(lines.join('\n')) : `${plain(lines.join('\n'))}\n`}`;
}

/** A section of options: each a term and its description. */
function optionItems(text: string): string {
  let page = '';
  let isWhole = false; // whether the line before is a sentence of its own
  for (const line of text.split('\n')) {
    const { mark, term, text: described = '' } = optionLine.exec(line)?.groups ?? {};
    if (term) page += `.TP\n.B ${plain(term)}\n${described && `${plain(described)}\n`}`;
    else if (line.trim()) page += `${isWhole ? '.br\n' : ''}${plain(line.trim())}\n`;
    isWhole = mark === '*';
  }
  return page;
}

/** The manual page of a script. */
export function manualPage(name: string, header: string): string {
  const { purpose, sections } = parseHeader(header);
  const title = pageName(name);
  const parts = sections.map(([heading, text]) => {
    if (heading === 'USAGE') {
      const [usage = '', ...rest] = named(text, false).split(/\n{2,}/);
      const description = rest.map(paragraph).join('');
      return `.SH SYNOPSIS\n${fixed(usage.replace(/^ {2}/gm, ''))}${description && `.SH DESCRIPTION\n${description}`}`;
    }
    if (/EXAMPLES$/.test(heading))
      return `.SH ${heading}\n${fixed(named(text, false).replace(/^ {2}/gm, ''))}`;
    if (/OPTIONS$/.test(heading)) return `.SH ${heading}\n${optionItems(named(text, false))}`;
    return `.SH ${heading}\n${named(text, heading === 'SEE ALSO')
      .split(/\n{2,}/)
      .map(paragraph)
      .join('')}`;
  });
  return `.TH ${title.toUpperCase().replace(/-/g, '\\-')} 1 "" barehand\n.SH NAME\n${plain(title)} \\- ${plain(purpose)}\n${parts.join('')}`;
}
