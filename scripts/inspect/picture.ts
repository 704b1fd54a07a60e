// A picture of a process for a post-mortem: the chain that started it, namespaces, cgroups, findings. As SVG, and as text
// of Mermaid. Pure functions.
import { isBelow } from '../helpers/mounts.ts';
import { printable } from '../helpers/pids.ts';
import { cut, widthOf, wrap } from '../helpers/table.ts';
import { whoseText } from '../ps/namespaces.ts';
import type { Facts, Starter } from './facts.ts';
import type { Finding } from './findings.ts';

/** A process in the picture. */
interface Box {
  pid: number;
  command: string;
  /** unit, terminal and start */
  detail: string;
  /** it is the one that was asked for */
  isTarget: boolean;
}

/** What the picture shows. */
interface Picture {
  title: string;
  /** outside of the container, from the top */
  outside: Box[];
  /** how many ancestors are left out at the top */
  omitted: number;
  container: string | null;
  inside: Box[];
  namespaces: { type: string; inode: string; whose: string; kind: 'own' | 'host' | 'shared' | 'unknown' }[];
  /** from the top of the tree */
  cgroups: { directory: string; level: string; limits: string[] }[];
  findings: Finding[];
}

const mostAncestors = 6;

/** Chooses from the facts what the picture shows. */
export function pictureOf(facts: Facts, findings: Finding[]): Picture {
  const { container, startedBy, parents } = facts;
  const box = (one: Starter): Box => ({
    pid: one.pid,
    command: one.command,
    detail: [one.unit, one.terminal, one.startedAt].filter(Boolean).join(', '),
    isTarget: one.pid === facts.pid,
  });
  const target = box(facts);
  const first =
    container &&
    (container.role === 'first'
      ? target
      : {
          pid: container.pid,
          command: container.command,
          detail: 'first process of the container',
          isTarget: false,
        });
  const isHolder = container?.role === 'holder';
  // one that holds a container has started it
  const others = startedBy.filter(({ pid }) => pid !== facts.pid);
  const kept = others.slice(0, mostAncestors);
  const outside = kept.map(box).reverse();
  const inside =
    first && container.role === 'member'
      ? [first, ...parents.map(box).reverse(), target]
      : first
        ? [first]
        : [];
  const directories = [...new Set(facts.limits.map(({ cgroup }) => cgroup))];
  return {
    title: `PID ${facts.pid}: ${facts.command}`,
    outside: container && !isHolder ? outside : [...outside, target],
    omitted: others.length - kept.length,
    container: container && `container ${container.name ?? 'without a name'}, made by ${container.engine}`,
    inside,
    namespaces: facts.namespaces.map((namespace) => ({
      type: namespace.type,
      inode: `${namespace.inode ?? '?'}`,
      whose: whoseText(namespace),
      // hardly anybody has a time namespace
      kind: (namespace.type === 'time' && namespace.whose === 'host' ? null : namespace.whose) ?? 'unknown',
    })),
    cgroups: directories
      // a cgroup before those below it
      .toSorted()
      .map((directory) => {
        const its = facts.limits.filter(({ cgroup }) => cgroup === directory);
        return {
          directory,
          level: `${its[0]?.level}; set by ${its[0]?.setBy ?? 'unknown'}`,
          limits: its.map(({ limit, device, text }) => `${limit} ${text}${device ? ` of ${device}` : ''}`),
        };
      }),
    findings,
  };
}

/** Text for XML: what has a meaning there is escaped, and what XML 1.0 forbids is replaced. */
const xmlText = (text: string): string =>
  printable(text)
    .replace(/[\ufffe\uffff]|\p{Cs}/gu, '\ufffd')
    .replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const width = 1040;
const lineHeight = 18;
/** width of a character of the monospaced font at 13 px */
const characterWidth = 7.9;

/** Colours in the light, and in the dark where the reader prefers that. */
const style = `
  text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328 }
  .title { font-size: 16px; font-weight: bold }
  .head { font-weight: bold; fill: #57606a }
  .strong { font-weight: bold }
  .muted { fill: #57606a }
  .paper { fill: #ffffff }
  .box { fill: #f6f8fa; stroke: #8c959f }
  .target { fill: #ddf4ff; stroke: #0969da; stroke-width: 2 }
  .frame { fill: none; stroke: #0969da; stroke-dasharray: 6 4 }
  .own { fill: #dafbe1; stroke: #1a7f37 }
  .host { fill: #ffebe9; stroke: #cf222e }
  .shared { fill: #fff8c5; stroke: #9a6700 }
  .line { fill: none; stroke: #57606a }
  .arrow { fill: #57606a }
  .critical { fill: #cf222e }
  .warning { fill: #9a6700 }
  .note { fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .head, .muted, .note { fill: #9198a1 }
    .paper { fill: #0d1117 }
    .box { fill: #161b22; stroke: #6e7681 }
    .target { fill: #0c2d6b; stroke: #58a6ff }
    .frame { stroke: #58a6ff }
    .own { fill: #033a16; stroke: #3fb950 }
    .host { fill: #490202; stroke: #f85149 }
    .shared { fill: #4b2900; stroke: #d29922 }
    .line { stroke: #9198a1 }
    .arrow { fill: #9198a1 }
    .critical { fill: #f85149 }
    .warning { fill: #d29922 }
  }`;

/** A text of the picture, cut to a width in pixels. */
function label(x: number, y: number, text: string, room: number, kind = ''): string {
  const shown = cut(printable(text), Math.floor(room / characterWidth));
  const length = Math.ceil(widthOf(shown) * characterWidth);
  // a font that is wider than expected is squeezed into the room
  const fits = length > room - 2 * characterWidth ? ` textLength="${Math.min(length, room)}"` : '';
  return `<text x="${x}" y="${y}"${kind && ` class="${kind}"`}${fits}>${xmlText(shown)}</text>`;
}

/** A text in lines that fit the room, in pixels. */
const wrapped = (text: string, room: number) =>
  wrap(printable(text), Math.floor(room / characterWidth)).split('\n');

const rectangle = (x: number, y: number, wide: number, high: number, kind: string) =>
  `<rect x="${x}" y="${y}" width="${wide}" height="${high}" rx="6" class="${kind}"/>`;

/** The picture as SVG: no script, nothing from elsewhere, readable in the light and in the dark. */
export function toSvg({ title, outside, omitted, container, inside, ...rest }: Picture): string {
  const { namespaces, cgroups, findings } = rest;
  const parts: string[] = [];
  const [left, right, column] = [20, 540, 480];
  parts.push(label(left, 32, title, width - 2 * left, 'title'));

  // left: processes, from the top
  parts.push(label(left, 64, 'processes', column, 'head'));
  let y = 76;
  const boxHeight = 46;
  let above: { x: number; y: number } | undefined;
  const draw = ({ pid, command, detail, isTarget }: Box, x: number, wide: number) => {
    if (above)
      parts.push(
        `<path d="M${above.x} ${above.y}V${y - 5}" class="line"/>`,
        `<path d="M${above.x - 4} ${y - 6}h8l-4 6z" class="arrow"/>`,
      );
    parts.push(rectangle(x, y, wide, boxHeight, isTarget ? 'target' : 'box'));
    parts.push(label(x + 10, y + 19, `${pid} ${command}`, wide - 20, isTarget ? 'strong' : ''));
    parts.push(label(x + 10, y + 37, detail, wide - 20, 'muted'));
    above = { x: left + 40, y: y + boxHeight };
    y += boxHeight + 18;
  };
  if (omitted > 0) {
    parts.push(label(left + 30, y + 12, `… ${omitted} more above`, column, 'muted'));
    y += 26;
  }
  for (const one of outside) draw(one, left, column);
  if (inside.length > 0) {
    const top = y + 2;
    y = top + 34;
    const begin = parts.length;
    for (const one of inside) draw(one, left + 14, column - 28);
    parts.splice(begin, 0, rectangle(left, top, column, y - top - 6, 'frame'));
    // the text breaks the line that leads into the frame
    parts.push(label(left + 60, top + 20, container ?? '', column - 74, 'strong'));
    y += 4;
  }
  const leftEnd = y;

  // right: namespaces, then cgroups
  parts.push(label(right, 64, 'namespaces', column, 'head'));
  y = 76;
  for (const { type, inode, whose, kind } of namespaces) {
    parts.push(rectangle(right, y, column, 24, kind === 'unknown' ? 'box' : kind));
    parts.push(label(right + 10, y + 17, type, 60, 'strong'));
    parts.push(label(right + 80, y + 17, whose, column - 190));
    parts.push(label(right + column - 100, y + 17, inode, 95, 'muted'));
    y += 30;
  }
  y += 22;
  parts.push(label(right, y, 'cgroups that limit', column, 'head'));
  y += 12;
  if (cgroups.length === 0) parts.push(label(right, y + 16, 'none', column));
  let before: { directory: string; y: number } | undefined;
  for (const { directory, level, limits } of cgroups) {
    const high = 46 + lineHeight * limits.length;
    if (before && isBelow(directory, before.directory))
      parts.push(`<path d="M${right + 40} ${before.y}V${y}" class="line"/>`);
    parts.push(rectangle(right, y, column, high, 'box'));
    parts.push(label(right + 10, y + 19, directory, column - 20));
    parts.push(label(right + 10, y + 37, level, column - 20, 'muted'));
    for (const [index, limit] of limits.entries())
      parts.push(label(right + 10, y + 55 + lineHeight * index, limit, column - 20, 'strong'));
    before = { directory, y: y + high };
    y += high + 16;
  }

  // below: findings
  y = Math.max(leftEnd, y) + 34;
  parts.push(label(left, y, 'findings', column, 'head'));
  y += 8;
  if (findings.length === 0) parts.push(label(left, y + lineHeight, 'none', column));
  for (const { weight, subject, allows, origin } of findings) {
    y += lineHeight;
    parts.push(label(left, y, weight, 90, `strong ${weight}`));
    for (const line of wrapped(`${subject}: ${allows}`, width - left * 2 - 90)) {
      parts.push(label(left + 90, y, line, width - left * 2 - 90));
      y += lineHeight;
    }
    parts.push(label(left + 90, y, origin, width - left * 2 - 90, 'muted'));
    y += 4;
  }
  const height = y + 24;
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${xmlText(title)}</title>`,
    `<style>${style}\n</style>`,
    `<rect width="${width}" height="${height}" class="paper"/>`,
    ...parts,
    '</svg>\n',
  ].join('\n');
}

/** Text in a label of Mermaid, in double quotes: what its grammar or Markdown in it could take for its own is a code. */
const mermaidText = (text: string): string =>
  cut(printable(text), 70).replace(
    /[^\p{L}\p{N} .,:/()=+-]/gu,
    (character) => `#${character.codePointAt(0)};`,
  );

/** The picture as a flowchart of Mermaid. */
export function toMermaid({ outside, omitted, container, inside, ...rest }: Picture): string {
  const { namespaces, cgroups, findings } = rest;
  const lines = ['flowchart TB'];
  const node = ({ pid, command, detail, isTarget }: Box) =>
    `p${pid}["${mermaidText(`${pid} ${command}`)}<br/>${mermaidText(detail)}"]${isTarget ? ':::target' : ''}`;
  const chain = [...outside, ...inside];
  const target = chain.find(({ isTarget }) => isTarget);
  if (omitted > 0) lines.push(`  more["… ${omitted} more above"] --> p${chain[0]?.pid}`);
  for (const one of outside) lines.push(`  ${node(one)}`);
  if (inside.length > 0) {
    lines.push(`  subgraph container["${mermaidText(container ?? '')}"]`);
    for (const one of inside) lines.push(`    ${node(one)}`);
    lines.push('  end');
  }
  for (const [index, { pid }] of chain.slice(1).entries()) lines.push(`  p${chain[index]?.pid} --> p${pid}`);
  lines.push('  subgraph namespaces["namespaces"]');
  for (const { type, whose, kind, inode } of namespaces)
    lines.push(`    ns_${type}["${type}: ${mermaidText(whose)}<br/>${mermaidText(inode)}"]:::${kind}`);
  lines.push('  end');
  for (const [index, { directory, level, limits }] of cgroups.entries()) {
    const text = [directory, level, ...limits].map(mermaidText).join('<br/>');
    lines.push(`  cgroup${index}["${text}"]`);
    const above = cgroups[index - 1];
    if (above && isBelow(directory, above.directory)) lines.push(`  cgroup${index - 1} --- cgroup${index}`);
  }
  if (target) {
    lines.push(`  p${target.pid} -.- namespaces`);
    for (const index of cgroups.keys()) lines.push(`  cgroup${index} -. limits .-> p${target.pid}`);
  }
  for (const [index, { weight, subject, allows }] of findings
    .filter(({ weight }) => weight !== 'note')
    .entries()) {
    lines.push(
      `  finding${index}["${weight}: ${mermaidText(subject)}<br/>${mermaidText(allows)}"]:::${weight}`,
    );
    if (target) lines.push(`  p${target.pid} ==> finding${index}`);
  }
  lines.push(
    '  classDef target stroke:#0969da,stroke-width:3px',
    '  classDef own stroke:#1a7f37',
    '  classDef host stroke:#cf222e',
    '  classDef shared stroke:#9a6700',
    '  classDef unknown stroke:#57606a',
    '  classDef critical stroke:#cf222e,stroke-width:3px',
    '  classDef warning stroke:#9a6700,stroke-width:2px',
  );
  return `${lines.join('\n')}\n`;
}
