#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-io.ts: limit the disk I/O of a container, or of any process tree

USAGE
  limit-io.ts [OPTION...] TARGET DEVICE|PATH
  limit-io.ts [OPTION...] --reset TARGET

  TARGET is a container's name, or the PID of any process. A PID of a container
  means the container: that of its first process, of the unshare(1) that holds
  it, or of its launcher. Any other PID means this process and all its
  descendants, with their threads, and whatever they start later.
  DEVICE is a disk, as /dev/sda; a partition stands for its disk. PATH is any
  file or directory, and stands for the disk that its file system is on; on an
  overlay, the disk of the upper directory. A device-mapper device, as LVM's, is
  a disk of its own.

  A container, a service and any tree of processes that has a cgroup to itself
  are limited there, in place. Any other tree is moved into a new cgroup,
  barehand/pid-PID; a part of a container into one in the container's
  cgroup, whose limits still apply.

  cgroup v1 does not throttle buffered writes: the kernel writes them back
  later, in its own name. It throttles reads, O_DIRECT writes and fsync(2). v2
  throttles buffered writes too, on file systems that support cgroup writeback
  (ext4, xfs, btrfs), if the memory controller is enabled in the same cgroup.

EXAMPLES
  limit-io.ts web / --write-bps 10M
  limit-io.ts 10028 /dev/sda --read-bps 50M --read-iops 1000
  limit-io.ts --reset web

OPTIONS
* --read-bps SIZE   read at most SIZE per second: 1M is 1024^2, 1MB 1000^2 bytes
* --write-bps SIZE  write at most SIZE per second
* --read-iops N     at most N read operations per second
* --write-iops N    at most N write operations per second
* --reset           lift the limits that limit-*.ts has set
                    restore those the container was started with, or its engine
                    or systemd had set; move back what was moved, and remove its
                    cgroup, unless another limit-*.ts still limits it
* --json            print the result as a JSON object
* --dry-run         print the steps as shell, and change nothing
* -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

CHANGES
  io.max of one cgroup; with v1 blkio.throttle.*_device.
  If there is no cgroup to limit in place: the new cgroup barehand/pid-PID, and
  which processes are in it.
  /run/barehand/pid-PID, or $XDG_RUNTIME_DIR/barehand/pid-PID, holds what
  --reset needs: where the processes came from, and the previous limits. --reset
  removes it; so does the next limit-*.ts, once the processes have ended.

UNDO
  limit-io.ts --reset TARGET

EXIT CODES
  0 done; 1 failed; 2 wrong usage.

SEE ALSO
  cgroups(7), lsblk(8), the kernel's admin-guide/cgroup-v2 (IO, Writeback) and
  admin-guide/cgroup-v1/blkio-controller, limit-memory.ts
*/
import { typedLine } from './helpers/called.ts';
import { main, UsageError } from './helpers/cli.ts';
import { parseNumber, parseSize } from './helpers/units.ts';
import { findDisk } from './limit/disk.ts';
import { carryOut, printSteps, report } from './limit/perform.ts';
import { commonOptions, planChanges } from './limit/plan.ts';

export const options = {
  readBps: { parse: parseSize },
  writeBps: { parse: parseSize },
  readIops: { parse: (text: string) => parseNumber('--read-iops', text, 1, 4_294_967_295) },
  writeIops: { parse: (text: string) => parseNumber('--write-iops', text, 1, 4_294_967_295) },
  ...commonOptions,
} as const;

const all = ['readBps', 'writeBps', 'readIops', 'writeIops'] as const;

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [text = '', path]) => {
  const { reset, json, dryRun } = values;
  const asked = all.filter((limit) => values[limit] !== undefined);
  if (reset && (path !== undefined || asked.length > 0))
    throw new UsageError('--reset takes neither a DEVICE nor limits: it lifts all of them');
  if (!reset && path === undefined)
    throw new UsageError(`DEVICE or PATH is missing: type ${typedLine()} / --read-bps 10M`);
  if (!reset && asked.length === 0)
    throw new UsageError(
      `one of --read-bps, --write-bps, --read-iops, --write-iops is missing: type ${typedLine()} --read-bps 10M`,
    );
  const disk = path === undefined ? undefined : findDisk(path);
  const wanted = disk && {
    devices: asked.map((limit) => ({ limit, device: disk.device, value: values[limit] as number })),
  };

  const changes = planChanges(text, [...all], wanted);
  if (dryRun) return printSteps(changes);
  const gone = 'the disk is gone, or does not support limits: see lsblk(8)';
  const remarks = await carryOut(text, changes, { ENODEV: gone, ENXIO: gone });
  const usage = disk && `${disk.device} is ${disk.name}`;
  report(text, changes, json, usage, disk && { disk: disk.name, device: disk.device });
  if (changes[0]?.version === 1 && asked.some((limit) => limit.startsWith('write')))
    remarks.unshift('cgroup v1 does not throttle buffered writes, only O_DIRECT and fsync');
  if (disk && ['btrfs', 'zfs', 'bcachefs'].includes(disk.type))
    remarks.push(`${disk.type} may span more disks than ${disk.name}: limit each of them`);
  for (const remark of remarks) console.error(`limit-io: ${remark}`);
  return 0;
});
