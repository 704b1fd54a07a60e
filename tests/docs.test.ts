// What the pages tell people to type is typed here: the ```sh blocks of a page, in order, in one shell, as root, from
// the project's top folder. A block that can't be says why: ```sh no-run: reason; one that takes a program which not
// every host has names it: ```sh needs: ip, nft. A page leaves nothing behind.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { text } from 'node:stream/consumers';
import { test as quick } from 'node:test';
import { parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { top } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const pages = [
  ...readdirSync(top),
  ...readdirSync(join(top, 'docs')).map((name) => join('docs', name)),
].filter((name) => name.endsWith('.md'));
const isTranslation = (page: string) => page.endsWith('.zh-CN.md');

/** What pages tell people to type takes long in all: the scripts have tests of their own. */
const isLong = (page: string) => !['README.md', 'docs/limit-cpu.md', 'docs/security.md'].includes(page);

const mark = 'BAREHAND_TEST_PAGE';

interface Block {
  line: number;
  /** what is written behind the three backticks */
  info: string;
  code: string;
}

function blocks(page: string): Block[] {
  const found: Block[] = [];
  let open: Block | undefined;
  for (const [index, line] of readFileSync(join(top, page), 'utf8').split('\n').entries()) {
    const [, info] = /^```(.*)$/.exec(line) ?? [];
    if (open && info === '') open = undefined;
    else if (!open && info !== undefined) {
      open = { line: index + 1, info, code: '' };
      found.push(open);
    } else if (open) open.code += `${line}\n`;
  }
  assert(!open, `${page}:${open?.line}: the block has no end`);
  return found;
}

/** What a page could leave behind, as lines that name it. */
function traces(session: number, page: string): string[] {
  const list = (folder: string) =>
    existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  const written = readFileSync(join(top, page), 'utf8');
  const cgroups = readHierarchies().flatMap(({ mountPoint }) => list(join(mountPoint, parent)));
  const notes = list('/run/barehand');
  return [
    ...cgroups.filter(isCgroup).filter((path) => !isOfOtherTest(session, path)),
    ...notes.filter((path) => !isOfOtherTest(session, path)),
    ...readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => `mount ${line.split(' ')[4]}`),
    ...list('/run/netns'),
    // other tests make files of their own in /tmp at the same time
    ...list('/tmp').filter((path) => written.includes(path)),
    ...list('/proc').filter((path) => isOf(session, path)),
    ...projectFiles(top),
  ];
}

const isCgroup = (path: string) => existsSync(join(path, 'cgroup.procs'));

/** Other tests' containers are called test-…; a pid-N is another test's where N lives and is not of the page. */
function isOfOtherTest(session: number, path: string): boolean {
  const [, pid] = /\/pid-(\d+)$/.exec(path) ?? [];
  const process = `/proc/${pid}`;
  return path.includes('/test-') || (pid !== undefined && existsSync(process) && !isOf(session, process));
}

/** Whether a living process, by its folder in /proc, is of a page's session or has inherited its environment. */
function isOf(session: number, path: string): boolean {
  try {
    const [state, , , its] = readFileSync(join(path, 'stat'), 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    const environment = readFileSync(join(path, 'environ'), 'utf8').split('\0');
    return state !== 'Z' && (Number(its) === session || environment.includes(`${mark}=${session}`));
  } catch {
    return false;
  }
}

function projectFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => !['.git', 'node_modules', 'rootfs', 'dist'].includes(name))
    .flatMap((entry) =>
      entry.isDirectory() ? projectFiles(join(folder, entry.name)) : [join(folder, entry.name)],
    );
}

/** Waits for what is there beyond `before` to go: tests beside this one make and remove things too. */
async function left(before: string[], session: number, page: string): Promise<string[]> {
  let rest: string[] | undefined;
  for (let waited = 0; waited < 150; waited++) {
    const now = traces(session, page).filter((trace) => !before.includes(trace));
    rest = (rest ?? now).filter((trace) => now.includes(trace));
    if (rest.length === 0) break;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return rest ?? [];
}

for (const page of pages) {
  quick(`${page}: every block is to be run, or says why not`, () => {
    for (const { line, info, code } of blocks(page)) {
      assert.match(
        info,
        /^(sh|sh no-run: \S.*|sh needs: [\w-]+(, [\w-]+)*|text|json|ts|mermaid)$/,
        `${page}:${line}`,
      );
      assert(info !== 'text' || !/^[$#] /m.test(code), `${page}:${line}: commands at a prompt are not run`);
    }
    // fences that blocks() does not know would keep what is in them from being run
    assert.doesNotMatch(readFileSync(join(top, page), 'utf8'), /^[ \t]+```|^[ \t]*~~~/m);
  });

  if (isTranslation(page))
    quick(`${page}: its blocks and the targets of its links are those of the page that it translates`, () => {
      const original = page.replace('.zh-CN', '');
      const parts = ({ info, code }: Block) => ({ info, code });
      assert.deepEqual(blocks(page).map(parts), blocks(original).map(parts));
      const links = (name: string) =>
        [...readFileSync(join(top, name), 'utf8').matchAll(/\]\((\w[^)#]*)/g)]
          .map(([, target = '']) => target.replace('.zh-CN', ''))
          .sort();
      assert.deepEqual(links(page), links(original));
    });

  const toRun: Block[] = [];
  // those of a translation are run once already
  for (const block of isTranslation(page)
    ? []
    : blocks(page).filter(({ info }) => /^sh($| needs:)/.test(info))) {
    const missing = needs(...(block.info.match(/[\w-]+/g) ?? []).slice(2));
    if (missing) quick(`${page}:${block.line} works`, { skip: missing });
    else toRun.push(block);
  }
  if (toRun.length > 0)
    (isLong(page) ? slow : quick)(
      `${page}: what it says to type works, and leaves nothing behind`,
      {
        skip: needs('root', 'namespaces', 'cgroup'),
      },
      async () => {
        const home = scratchFolder('docs');
        const before = traces(0, page);
        const script = `export ${mark}=$$\n${toRun.map(({ line, code }) => `echo '== ${page}:${line}' >&2\n${code}`).join('')}`;
        // a session of its own tells its processes from those of other tests
        const shell = spawn('sh', ['-eu', '-c', script], {
          cwd: top,
          detached: true,
          env: { ...process.env, HOME: home, TMPDIR: home },
          stdio: ['ignore', 'pipe', 'pipe'],
        });
        const session = shell.pid as number;
        const timer = setTimeout(() => process.kill(-session, 'SIGKILL'), 180_000);
        try {
          // streams are read to their end only where nothing that is left behind holds them open
          const output = Promise.all([text(shell.stdout), text(shell.stderr)]);
          const [code, signal] = await once(shell, 'exit');
          const rest = await left(before, session, page);
          if (rest.length > 0) killSession(session);
          const [stdout, stderr] = await output;
          assert.deepEqual([code, signal], [0, null], `${stdout}\n${stderr}`);
          assert.deepEqual(rest, [], `left behind:\n${stderr}`);
          assert.deepEqual(readdirSync(home), [], 'files left in $HOME or $TMPDIR');
        } finally {
          clearTimeout(timer);
          killSession(session);
        }
      },
    );

  quick(`${page}: its links lead somewhere`, () => {
    const written = readFileSync(join(top, page), 'utf8').replace(/^```[\s\S]*?^```/gm, '');
    for (const [, target = ''] of written.matchAll(/\]\(([^)\s#]+)[^)]*\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const path = join(top, dirname(page), target);
      assert(existsSync(path), `${page} links to ${relative(top, path)}, which is not there`);
    }
  });
}

function killSession(session: number): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    if (isOf(session, join('/proc', pid)))
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // it has ended
      }
}

quick('docs/architecture.md tells of every helper and every package', () => {
  const written = readFileSync(join(top, 'docs/architecture.md'), 'utf8');
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
  for (const name of [...Object.keys(dependencies), ...Object.keys(devDependencies)])
    assert(written.includes(name.startsWith('@types/') ? '@types/*' : name), name);
  for (const name of readdirSync(join(top, 'scripts/helpers')))
    assert(written.includes(name.startsWith('strip-types') ? 'strip-types*.mjs' : name), name);
});
