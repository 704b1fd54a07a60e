// Has the programs under scripts/ that are not TypeScript read by the checkers of their languages. A checker that is
// not installed is passed over with a line that says so; where CI is set, that is an error.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const top = fileURLToPath(new URL('../../', import.meta.url));

/** Which files, and the words that check one of them. They fail for a warning too. */
const checkers = [
  // perl -wc ends with 0 for a warning: here a warning is fatal
  { files: /\.pl$/, words: ['perl', '-Mwarnings=FATAL,all', '-c'] },
  // py_compile(1), without the file that it would write
  {
    files: /\.py$/,
    words: [
      'python3',
      '-I',
      '-W',
      'error',
      '-c',
      'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")',
    ],
  },
  { files: /\.(ba)?sh$|\/node-ts$/, words: ['shellcheck'] },
  { files: /\.zsh$/, words: ['zsh', '-n'] },
  { files: /\.fish$/, words: ['fish', '--no-execute'] },
];

let failed = false;
const names = readdirSync(join(top, 'scripts'), { recursive: true }).map((name) => join('scripts', name));
for (const { files, words } of checkers)
  for (const name of names.filter((name) => files.test(name)).sort()) {
    const [program, ...options] = words;
    const { status, error, stdout, stderr } = spawnSync(program, [...options, name], {
      cwd: top,
      encoding: 'utf8',
    });
    if (error?.code === 'ENOENT') {
      console.error(`${name} is not checked: there is no ${program} here`);
      failed ||= Boolean(process.env.CI);
    } else if (error || status !== 0) {
      console.error(`${name}:\n${error ?? stdout + stderr}`);
      failed = true;
    }
  }
process.exitCode = failed ? 1 : 0;
