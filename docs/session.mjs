// npm run picture: makes docs/session.svg, a picture of the first session in README.md, from what its commands print.
// A test runs the session again and compares: the picture can't go stale.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const top = fileURLToPath(new URL('..', import.meta.url));
const picture = join(top, 'docs/session.svg');

/** The commands of the first session in README.md, without the one that only makes what may be there already. */
const commands = () =>
  /^## A session\n.*?^```sh[^\n]*\n(.*?)^```/ms
    .exec(readFileSync(join(top, 'README.md'), 'utf8'))[1]
    .split('\n')
    .filter((line) => line && !line.startsWith('['));

/** Runs the session, as root. Returns its lines: commands at a prompt, and what they print. `name` stands for web. */
export function runSession(name = 'web') {
  const text = commands()
    .map((command) => command.replace(/\bweb\b/g, name))
    .map((command) => `echo '# ${command.replaceAll("'", `'\\''`)}'\n{ ${command}\n} 2>&1`)
    .join('\n');
  const output = execFileSync('sh', ['-c', text], {
    cwd: top,
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
  });
  const lines = output
    .replaceAll(name, 'web')
    .replaceAll(top.replace(/\/$/, ''), '/srv/barehand')
    .trimEnd()
    .split('\n');
  // the table of ps.ts has containers of others too, if this host has any
  const start = lines.findIndex((line) => /^NAME\s+PID/.test(line));
  const end = lines.findIndex((line, index) => index > start && line.startsWith('# '));
  return lines.filter((line, index) => index <= start || index >= end || /^web\b/.test(line));
}

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
const [column, row, margin, most] = [7.8, 19, 16, 110];

/** The picture of a terminal with these lines; longer ones are wrapped. It follows the colours of its reader. */
export function draw(lines) {
  const wrapped = lines.flatMap((line) =>
    (line.match(new RegExp(`.{1,${most}}`, 'g')) ?? ['']).map((text, index) => ({
      text,
      isCommand: line.startsWith('# ') && index === 0,
    })),
  );
  const width = Math.round(most * column + 2 * margin);
  const height = wrapped.length * row + 2 * margin;
  const texts = wrapped.map(({ text, isCommand }, index) => {
    const y = margin + (index + 0.75) * row;
    return `<text x="${margin}" y="${y}"${isCommand ? ' class="command"' : ''} xml:space="preserve">${escaped(text)}</text>\n`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>A session with barehand</title>
<style>
rect { fill: #ffffff; stroke: #d0d7de }
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328 }
.command { font-weight: bold; fill: #0550ae }
@media (prefers-color-scheme: dark) {
rect { fill: #0d1117; stroke: #30363d }
text { fill: #e6edf3 }
.command { fill: #79c0ff }
}
</style>
<rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>
${texts.join('')}</svg>
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(picture, draw(runSession()));
  console.log(picture);
}
