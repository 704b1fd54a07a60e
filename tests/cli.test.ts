import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure, parseArguments, reason, refuseLateOptions, UsageError } from '../scripts/helpers/cli.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { stripTypes } from './helpers/script.ts';

const options = {
  memory: { short: 'm', alias: 'storage', parse: (text: string) => text },
  env: { short: 'e', parse: (text: string) => text, many: true },
  interactive: { short: 'i' },
  tty: { short: 't' },
  dryRun: {},
  privileged: {},
  noTrunc: {},
} as const;

/** Parses as a script with operands only, here any number of them. */
const parse = (...argv: string[]) => parseArguments({ options, operands: [0, 99] }, argv);
/** Parses as a script like run.ts: one operand, and a command after it. */
const parseCommand = (...argv: string[]) =>
  parseArguments({ options, operands: [1, 1], command: true }, argv);

/** The options that were given, and the operands. */
function given(parsed: ReturnType<typeof parse>) {
  assert('values' in parsed);
  const values = Object.entries(parsed.values).filter(([, value]) => value && String(value) !== '');
  return [Object.fromEntries(values), parsed.operands];
}

const refused = (message: string) => (error: unknown) => {
  assert(error instanceof UsageError);
  assert.equal(error.message + error.hint, message);
  return true;
};
/** The option is unknown; what may have been meant is another test's. */
const unknown = (word: string) => (error: unknown) => {
  assert(error instanceof UsageError);
  assert.equal(error.message, `unknown option ${word}`);
  return true;
};

test('without options, flags are false, lists empty and the rest undefined', () => {
  assert.deepEqual(parse(), {
    values: {
      memory: undefined,
      env: [],
      interactive: false,
      tty: false,
      dryRun: false,
      privileged: false,
      noTrunc: false,
      help: false,
      version: false,
    },
    operands: [],
    rest: [],
  });
});

test('words behind -- are operands, or, where a script asks for that, words of their own', () => {
  const spec = { options: { force: {} }, operands: [0, 1] as [number, number] };
  const words = ['a', '--force', '--', '-m', 'b', '--', 'c'];
  const parsed = parseArguments({ ...spec, rest: true }, words);
  assert.deepEqual(
    [parsed.values?.force, parsed.operands, parsed.rest],
    [true, ['a'], ['-m', 'b', '--', 'c']],
  );
  assert.deepEqual(parseArguments({ ...spec, operands: [0, 9] }, words).operands, [
    'a',
    '-m',
    'b',
    '--',
    'c',
  ]);
  assert.throws(() => parseArguments(spec, words), /one operand too many: -m/);
});

test('words that look like numbers stay words', () => {
  assert.deepEqual(given(parse('007', '1e3', '0x10', '-')), [{}, ['007', '1e3', '0x10', '-']]);
  assert.deepEqual(given(parse('--memory', '007', '-e', '1e3', '--env=0x10')), [
    { memory: '007', env: ['1e3', '0x10'] },
    [],
  ]);
  assert.deepEqual(given(parseCommand('007', '1e3', 'true')), [{}, ['007', '1e3', 'true']]);
});

test('a value is taken from the same word or the next', () => {
  for (const argv of [['--memory', '5'], ['--memory=5'], ['-m', '5'], ['-m=5'], ['-m5']])
    assert.deepEqual(given(parse(...argv, 'x')), [{ memory: '5' }, ['x']], argv.join(' '));
  assert.deepEqual(given(parse('--env=A=b=c', '-e', 'D= e')), [{ env: ['A=b=c', 'D= e'] }, []]);
  assert.deepEqual(given(parse('--memory=-5')), [{ memory: '-5' }, []]);
  assert.deepEqual(given(parse('-e', '-', '--env', 'true')), [{ env: ['-', 'true'] }, []]);
  assert.deepEqual(given(parse('--env=two\nlines')), [{ env: ['two\nlines'] }, []]);
});

test('a value may be a number below zero', () => {
  for (const number of ['-1', '-0.5', '-.5', '-100000'])
    for (const argv of [['--memory', number], [`--memory=${number}`], ['-m', number], ['-im', number]])
      for (const parser of [parse, parseCommand]) {
        const flag = argv[0] === '-im' ? { interactive: true } : {};
        assert.deepEqual(given(parser(...argv, 'x')), [{ memory: number, ...flag }, ['x']], argv.join(' '));
      }
  assert.deepEqual(given(parse('-e', '-1', '--env', '-2', '--dry-run')), [
    { env: ['-1', '-2'], dryRun: true },
    [],
  ]);
  // nowhere else
  assert.deepEqual(given(parseCommand('root', 'nice', '--memory', '-1')), [
    {},
    ['root', 'nice', '--memory', '-1'],
  ]);
  assert.deepEqual(given(parse('--', '--memory', '-1')), [{}, ['--memory', '-1']]);
  for (const argv of [['-1'], ['-i', '-1'], ['--memory', '5', '-1']])
    assert.throws(() => parse(...argv), refused('unknown option -1'), argv.join(' '));
  for (const word of ['-1x', '--1', '-d', '-i', '-', '--'])
    if (word !== '-') assert.throws(() => parse('--memory', word), UsageError, word);
});

test('an option that is given again wins, or makes the list longer', () => {
  assert.deepEqual(given(parse('-m', '1', '--memory', '2')), [{ memory: '2' }, []]);
  assert.deepEqual(given(parse('-e', 'A=1', 'x', '-e', 'B=2')), [{ env: ['A=1', 'B=2'] }, ['x']]);
});

test('an option that needs a value and has none is refused', () => {
  for (const argv of [['--memory'], ['--memory='], ['-m'], ['-m', ''], ['-m', '--', 'x']])
    assert.throws(() => parse(...argv), refused('--memory needs a value'), argv.join(' '));
  assert.throws(
    () => parse('-m', '--dry-run'),
    refused(
      '--memory needs a value, and --dry-run is an option: if it is the value, type --memory=--dry-run',
    ),
  );
});

test('an unknown option is refused, whatever it looks like', () => {
  for (const word of [
    '--nope',
    '--nope=1',
    '-z',
    '-iz',
    '-zi',
    '---memory',
    '-memory',
    '--m',
    '--dryRun',
    '--memory.x=5',
    '--constructor',
    '--toString=3',
    '--__proto__',
    '--=x',
    '-5',
    '-m100M',
  ])
    for (const parser of [parse, parseCommand]) assert.throws(() => parser(word, 'x'), unknown(word), word);
});

test('the option that a mistyped one is nearest to is suggested', () => {
  for (const [word, meant] of [
    ['--memroy', 'memory'],
    ['--mem', 'memory'],
    ['--memory-=5', 'memory'],
    ['-memory', 'memory'],
    ['---memory', 'memory'],
    ['--dryRun', 'dry-run'],
    ['--dry_run', 'dry-run'],
    ['--no-trnuc', 'no-trunc'],
    ['--ENV=A=1', 'env'],
    ['--hlep', 'help'],
  ])
    assert.throws(() => parse(word as string), refused(`unknown option ${word}: did you mean --${meant}?`));
  for (const word of ['--nope', '-z', '--x', '--m', `--${'memory'.repeat(20)}`])
    assert.throws(() => parse(word), refused(`unknown option ${word}`));
});

test('options behind the operand of a script with a command are refused with the line as it should be', () => {
  const late = (...words: string[]) => {
    const line = ['--tty', 'root', ...words];
    return () => refuseLateOptions(options, 'ROOT', words, line);
  };
  const [script] = [/^(\S+) stands after ROOT, where COMMAND begins: type \S+ (.*)$/];
  for (const [words, expected] of [
    [['--memory', '5', 'ls', '-l'], '--tty --memory 5 root ls -l'],
    [['-im', '5', '--env=A=b c', 'ls', '--env', 'x'], "--tty -im 5 '--env=A=b c' root ls --env x"],
    [['-i'], '--tty -i root'],
    [['-i', '--', 'ls'], '--tty -i root -- ls'],
  ] as [string[], string][])
    assert.throws(late(...words), (error: Error) => {
      assert.deepEqual(script.exec(error.message)?.slice(1), [words[0], expected]);
      return true;
    });
  assert.throws(late('--memroy', '5', 'ls'), refused('unknown option --memroy: did you mean --memory?'));
  for (const words of [[], ['ls', '--memory', '5'], ['-'], ['./-x']]) late(...words)();
});

test('a negated option is unknown, unless it is named so', () => {
  for (const word of ['--no-memory', '--no-privileged', '--no-env', '--trunc', '--no-no-trunc'])
    assert.throws(() => parse(word), unknown(word));
  assert.deepEqual(given(parse('--no-trunc', 'x')), [{ noTrunc: true }, ['x']]);
});

test('a flag takes no value: --privileged=no does not mean yes, nor does a flag eat an operand', () => {
  for (const argv of [
    ['--privileged=no'],
    ['--privileged=false'],
    ['--privileged='],
    ['--privileged', 'false', 'x'],
    ['--privileged', 'true', 'x'],
  ])
    for (const parser of [parse, parseCommand])
      assert.throws(
        () => parser(...argv),
        refused('--privileged is a flag: it takes no value'),
        argv.join(' '),
      );
  assert.throws(() => parse('-i=no'), refused('--interactive is a flag: it takes no value'));
  assert.throws(() => parse('-it', 'true'), refused('--tty is a flag: it takes no value'));
  assert.throws(() => parse('--help=no'), refused('--help is a flag: it takes no value'));
  assert.deepEqual(given(parse('--privileged', 'no')), [{ privileged: true }, ['no']]);
});

test('short flags may be joined, and the last may take a value', () => {
  assert.deepEqual(given(parse('-it', 'x')), [{ interactive: true, tty: true }, ['x']]);
  for (const argv of [['-itm', '5'], ['-itm5'], ['-itm=5']])
    assert.deepEqual(given(parse(...argv)), [{ interactive: true, tty: true, memory: '5' }, []], argv.join());
  for (const word of ['-itmx', '-itm5x', '-itm5=6', '-m5m'])
    assert.throws(() => parse(word, 'x'), unknown(word), word);
});

test('options may stand among the operands, and end at --', () => {
  assert.deepEqual(given(parse('a', '--dry-run', 'b')), [{ dryRun: true }, ['a', 'b']]);
  assert.deepEqual(given(parse('--dry-run', '--', '--nope', '--', 'b')), [
    { dryRun: true },
    ['--nope', '--', 'b'],
  ]);
});

test('what follows the operand of a command script is the command, untouched', () => {
  assert.deepEqual(given(parseCommand('--dry-run', 'root', 'ls', '--dry-run', '-la', '--nope=1')), [
    { dryRun: true },
    ['root', 'ls', '--dry-run', '-la', '--nope=1'],
  ]);
  assert.deepEqual(given(parseCommand('root', 'env', '-e', '--memory', '--help')), [
    {},
    ['root', 'env', '-e', '--memory', '--help'],
  ]);
  assert.deepEqual(given(parseCommand('root', 'git', 'diff', '--', 'a', '--', 'b')), [
    {},
    ['root', 'git', 'diff', '--', 'a', '--', 'b'],
  ]);
  assert.deepEqual(given(parseCommand('-', '--nope')), [{}, ['-', '--nope']]);
});

test('a -- before the operand or before the command of a command script only ends the options', () => {
  assert.deepEqual(given(parseCommand('-i', '--', 'root', 'ls', '-l')), [
    { interactive: true },
    ['root', 'ls', '-l'],
  ]);
  assert.deepEqual(given(parseCommand('root', '--', 'ls', '-l')), [{}, ['root', 'ls', '-l']]);
});

test('too few and too many operands are refused', () => {
  assert.throws(() => parseCommand('-i'), refused('an operand is missing'));
  assert.throws(
    () => parseArguments({ options, operands: [0, 1] }, ['a', 'b', 'c']),
    refused('one operand too many: b'),
  );
});

test('help is asked by --help and -h, but not among the words of a command', () => {
  for (const argv of [['--help'], ['-h'], ['-i', '--help', 'x'], ['-ih']])
    assert.deepEqual(parse(...argv), { help: true }, argv.join(' '));
  for (const argv of [
    ['--help', 'all'],
    ['--help=all'],
    ['-h', 'all'],
    ['-i', '-h', 'all'],
    ['x', '--help=all'],
  ])
    assert.deepEqual(parse(...argv), { help: 'all' }, argv.join(' '));
  assert.deepEqual(parseCommand('--help', 'all'), { help: 'all' });
  assert('values' in parseCommand('root', 'ls', '--help'));
});

test('the version is asked by --version, but not among the words of a command', () => {
  assert.deepEqual(parse('--version'), { version: true });
  assert.deepEqual(parse('--version', '--help'), { help: true });
  assert('values' in parseCommand('root', 'ls', '--version'));
});

test('an option is found by its other name too', () => {
  assert.deepEqual(given(parse('--storage', '5', '--storage=6')), [{ memory: '6' }, []]);
  assert.throws(() => parse('--storage'), refused('--memory needs a value'));
});

test("an error is told in the kernel's words, once", () => {
  const error = (fields: object) => Object.assign(new Error('message'), fields);
  assert.equal(reason(error({ errno: -16, code: 'EBUSY' })), 'EBUSY: resource busy or locked');
  assert.equal(reason(error({ code: 'ETHING' })), 'ETHING: message');
  assert.equal(reason(new Failure('as it is')), 'as it is');
});

// The rest starts a script of its own, in a folder beside nothing.
const folder = scratchFolder('cli');
const cli = new URL('../scripts/helpers/cli.ts', import.meta.url).href;

function start(body: string, words: string[], spec = '', env = {}) {
  const file = join(folder, 'sample.mjs');
  writeFileSync(
    file,
    `/*\nsample.mjs: help of the sample\n*/
import { Failure, main, UsageError } from '${cli}';
await main(import.meta.url, { options: {}, operands: [0, 9]${spec} }, async (_, operands) => { ${body} });`,
  );
  return spawnSync(process.execPath, [...stripTypes, file, ...words], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
}

const pass = ', exitCodes: { failed: 125, usage: 125 }';

test('the exit code is what the body returns, else 0', () => {
  assert.equal(start('return 42', []).status, 42);
  assert.equal(start('return undefined', []).status, 0);
});

test('a failure is one line on stderr and exit code 1, or the one that the script has for it', () => {
  const failed = start("throw new Failure('cannot do it: do that')", []);
  assert.deepEqual([failed.status, failed.stdout, failed.stderr], [1, '', 'sample: cannot do it: do that\n']);
  assert.equal(start("throw new Failure('no')", [], pass).status, 125);
});

test('wrong usage is a line on stderr that may tell of --help, and exit code 2, or the one that the script has for it', () => {
  const wrong = start('return 0', ['--nope']);
  assert.deepEqual(
    [wrong.status, wrong.stdout, wrong.stderr],
    [2, '', `sample: unknown option --nope: type ${join(folder, 'sample.mjs')} --help\n`],
  );
  assert.equal(start('return 0', ['--nope'], pass).status, 125);
});

test('what a message quotes cannot act on the terminal, nor add a line', () => {
  const { stderr } = start('throw new Failure(operands[0])', ['a\x1b[2J\nb\r\u009bc\u202ed']);
  assert.equal(stderr, 'sample: a\\x1b[2J\\nb\\x0d\\x9bc\\u{202e}d\n');
});

test('a failure may have an exit code of its own', () => {
  const body = "throw Object.assign(new Failure('no'), { exitCode: 127 })";
  assert.equal(start(body, [], pass).status, 127);
});

test('an error that nobody expected is one line too, and BAREHAND_TRACE shows where it came from', () => {
  const body = 'null.x; return 0';
  assert.match(start(body, []).stderr, /^sample: Cannot read [^\n]*\n$/);
  assert.match(start(body, [], '', { BAREHAND_TRACE: '1' }).stderr, /at .*sample\.mjs/);
});

test('--help prints the header comment on stdout', () => {
  const help = start('return 1', ['--help']);
  assert.deepEqual([help.status, help.stdout, help.stderr], [0, 'sample.mjs: help of the sample\n', '']);
});

test('a reader that has seen enough is no error', () => {
  start("for (let i = 0; i < 1e5; i++) process.stdout.write('a line of some length\\n'); return 0", []);
  const { status, stdout, stderr } = spawnSync(
    'bash',
    [
      '-o',
      'pipefail',
      '-c',
      '"$@" | head -n 1',
      '-',
      process.execPath,
      ...stripTypes,
      join(folder, 'sample.mjs'),
    ],
    { encoding: 'utf8' },
  );
  assert.deepEqual([status, stdout, stderr], [0, 'a line of some length\n', '']);
});

test('a script that is imported does nothing', () => {
  start('console.log("ran"); return 0', []);
  const importer = join(folder, 'importer.mjs');
  writeFileSync(importer, "await import('./sample.mjs'); console.log('imported');");
  const { stdout } = spawnSync(process.execPath, [...stripTypes, importer], { encoding: 'utf8' });
  assert.equal(stdout, 'imported\n');
});
