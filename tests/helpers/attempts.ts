// Attempts to get out of a container: many programs, each in a shell of its own, in as few containers as possible.
import assert from 'node:assert/strict';
import { execute, script } from './script.ts';

/** A way out, and what shows that it is one. */
export interface Attempt {
  /** for sh(1) in the container: it ends with 0 when it is out */
  program: string;
  /** what it says by default, where it must not get out */
  refused: RegExp;
  /** options of run.ts that lift what is in its way, or a container by hand that nothing of it is in: there it gets out */
  lifted: string[] | keyof typeof byHand;
  /** options with which it fails all the same, for more is in its way than what they lift */
  even?: string[];
  /** options in both cases */
  given?: string[];
  /** why it can't get out of anything here: the kernel, say, does not have what it is about. It is tried all the same */
  unproved?: string | false;
}

/** Containers as people make them by hand: with a chroot(2), or a pivot_root(2) that leaves the old root mounted. */
export const byHand = {
  chroot: (rootfs: string) => [
    ...['unshare', '--pid', '--fork', `--mount-proc=${rootfs}/proc`],
    ...['perl', '-e', 'chroot shift or die; exec @ARGV or die', rootfs],
  ],
  pivot: (rootfs: string) => [
    ...['unshare', '--mount', '--pid', '--fork', '--propagation', 'private', 'sh', '-c'],
    'mount --bind "$1" "$1" && cd "$1" && mount -t proc proc proc && pivot_root . . && shift && exec "$@"',
    ...['sh', rootfs],
  ],
};

/** What the caller of every container has that should not get in: descriptors, a key, and a limit. */
const careless = (key: string) => [
  ...['bash', '-c', `exec 7</ 8</proc/self/ns/mnt 200</; ulimit -n 4096; exec "$@"`, 'bash', 'perl', '-e'],
  // keyctl(2): KEYCTL_JOIN_SESSION_KEYRING, then add_key(2) to KEY_SPEC_SESSION_KEYRING
  `my ($type, $name, $text) = ("user", "${key}", "secret");
   syscall(250, 1, 0); syscall(248, $type, $name, $text, 6, -3); exec @ARGV or die`,
];

/** The system calls that attempts make by perl, on x86-64. */
const numbers = `bpf 321 clone 56 clone3 435 init_module 175 io_uring_setup 425 ioperm 173 kexec_load 246 keyctl 250
  open_by_handle_at 304 perf_event_open 298 process_vm_readv 310 ptrace 101 socket 41 syslog 103 userfaultfd 323`;

/** A program in perl that may `call("NAME", …)`, which ends it where that fails with another error than `$expected`. */
export const perl = (code: string, words = '') =>
  `perl -e 'my %number = qw(${numbers}); my $expected = 0;
sub call { my ($n, @a) = ($number{+shift}, @_); my $r = syscall($n, @a); $r >= 0 or $! == $expected or die "$!\\n"; $r }
${code}' -- ${words}`;

export interface Outcome {
  code: number;
  said: string;
}

/** Tries programs one after the other in one container; each has a directory `$dir`, and the variables. */
async function tryAll(
  rootfs: string,
  where: string[] | keyof typeof byHand,
  programs: string[],
  variables: Record<string, string>,
): Promise<Outcome[]> {
  const launch = typeof where === 'string' ? byHand[where](rootfs) : [script('run'), ...where, rootfs];
  const assignments = Object.entries(variables).map(([name, value]) => `${name}='${value}'; `);
  const driver = `n=0; for program; do n=$((n + 1)); dir=/tmp/try$$-$n; mkdir $dir
    said=$(timeout 20 sh -c "${assignments.join('')}dir=$dir; $program" 2>&1); printf '%s\\0%s\\0' $? "$said"; done`;
  const result = await execute([
    ...careless(variables.KEY ?? ''),
    ...launch,
    ...['sh', '-c', driver, 'sh', ...programs],
  ]);
  const words = result.stdout.split('\0');
  assert.equal(words.length, 2 * programs.length + 1, `${launch.join(' ')}: ${result.stderr}`);
  return programs.map((_, index) => ({
    code: Number(words[2 * index]),
    said: words[2 * index + 1] as string,
  }));
}

/** Attempts on one root file system, that are made when the first of a container's is asked for. */
export class Attempts {
  readonly #rootfs: string;
  readonly #table: Record<string, Attempt>;
  readonly #variables: Record<string, string>;
  readonly #done = new Map<string, Promise<Map<string, Outcome>>>();

  constructor(rootfs: string, table: Record<string, Attempt>, variables: Record<string, string>) {
    this.#rootfs = rootfs;
    this.#table = table;
    this.#variables = variables;
  }

  /** What becomes of an attempt by default, with what is in its way lifted, or `even` with some of it lifted. */
  async outcome(name: string, kind: 'default' | 'lifted' | 'even'): Promise<Outcome> {
    const where = (attempt: Attempt | undefined) => {
      const options = kind === 'default' ? [] : attempt?.[kind];
      return typeof options === 'string' ? options : options && [...(attempt?.given ?? []), ...options];
    };
    const own = where(this.#table[name]);
    const key = `${kind} ${own}`;
    if (!own) throw new Error(`${name} has no options for ${kind}`);
    let done = this.#done.get(key);
    if (!done) {
      const alike = Object.entries(this.#table).filter(
        ([, attempt]) => String(where(attempt)) === String(own),
      );
      done = tryAll(
        this.#rootfs,
        own,
        alike.map(([, { program }]) => program),
        this.#variables,
      ).then((outcomes) => new Map(alike.map(([name], index) => [name, outcomes[index] as Outcome])));
      this.#done.set(key, done);
    }
    return (await done).get(name) as Outcome;
  }
}
