// The lines of shell of a network, until it is performed in TypeScript.
import { Failure } from '../helpers/cli.ts';
import { quote, runProgram } from '../helpers/shell.ts';
import type { Connection } from './launch.ts';

export function shellConnection(
  name: string,
  { define, attach, leave }: { define: string; attach: string; leave: string },
): Connection {
  const before = (pid: number) =>
    `fail() { echo "run: $*" >&2; exit 125; }\nname=${quote(name)} pid=${pid}\n${define}\n`;
  let network = '';
  let of = 0;
  const leaving = () => `${before(of)}network=${quote(network)}\n${leave}\n`;
  return {
    attach: async (pid) => {
      of = pid;
      const { stdout, stderr } = await runProgram([
        'sh',
        '-c',
        `${before(pid)}${attach}\necho "$network"`,
        'run',
      ]);
      network = stdout.trim();
      if (!network) throw new Failure(stderr.trim().replace(/^(run|network): /, ''));
      if (stderr.trim()) console.error(stderr.trim());
    },
    leave: async () => {
      await runProgram(['sh', '-c', leaving(), 'run']);
    },
    get leaveShell() {
      return leaving();
    },
  };
}
