// Settings of the future PID 1 and of its namespaces that are made from outside, while it waits and has its privileges.
import { Failure, reason } from '../helpers/cli.ts';
import { sh } from '../helpers/shell.ts';
import { perform, type Step } from '../helpers/steps.ts';
import { enterCommand, type Launch } from './container.ts';

/** A sysctl of a namespace. `path` is that of its file. */
export interface Sysctl {
  name: string;
  path: string;
  value: string;
  namespace: 'ipc' | 'net';
}

/** The step that sets a sysctl: /proc/sys has those of the namespaces of the process that opens a file there. */
function sysctlStep(launch: Launch, pid: string, { path, value, namespace }: Sysctl): Step {
  const command = enterCommand({ ...launch, isolate: new Set([namespace]) }, pid);
  // with the mount namespace of the host, whose /proc/sys is writable
  const enter = command.filter((word) => word !== '--mount');
  return { run: sh`${enter} dd of=${path} status=none`, input: `${value}\n` };
}

/** The step that sets oom_score_adj, which the command inherits. */
const oomScoreStep = (pid: string, score: number): Step => ({
  write: String(score),
  to: `/proc/${pid}/oom_score_adj`,
});

/** All settings as steps. Pure. */
export const settingSteps = (launch: Launch, pid: string): Step[] => [
  ...(launch.oomScore === undefined ? [] : [oomScoreStep(pid, launch.oomScore)]),
  ...launch.sysctls.map((sysctl) => sysctlStep(launch, pid, sysctl)),
];

/** Makes the settings. Throws Failure with the kernel's reason. */
export async function applySettings(launch: Launch, pid: string): Promise<void> {
  if (launch.oomScore !== undefined)
    await perform([oomScoreStep(pid, launch.oomScore)]).catch(() => {
      throw new Failure(
        `--oom-score-adj ${launch.oomScore}: only root may go below the value of the caller: cat /proc/self/oom_score_adj`,
      );
    });
  for (const sysctl of launch.sysctls)
    await perform([sysctlStep(launch, pid, sysctl)]).catch((error) => {
      const kernels = reason(error).split(': ').at(-1);
      const why = /No such file/.test(kernels ?? '') ? 'this kernel has none in such a namespace' : kernels;
      throw new Failure(
        `--sysctl ${sysctl.name}=${sysctl.value}: ${why}: ls ${sysctl.path.replace(/[^/]+$/, '')}`,
      );
    });
}
