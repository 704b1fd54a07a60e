#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-io.ts: no more than so much reading and writing of a disk by a container, or by any process and its descendants

USAGE
  limit-io.ts [OPTION...] TARGET DEVICE|PATH
  limit-io.ts [OPTION...] --reset TARGET

  TARGET is a container's name; the PID of its first process, or of the unshare(1) that holds it; or the PID of any
  process: it and all its descendants are limited, with their threads, and whatever they start later.
  DEVICE is a disk, as /dev/sda; of a partition its disk is taken. PATH is any file or folder: the disk is the one that
  its file system is on, below an overlay the one of its upper directory. A device of device-mapper, as those of LVM,
  is a disk of its own.

  A target that has a cgroup to itself, as containers and services have, is limited there, in place. Any other is
  moved into a cgroup of its own, barehand/pid-PID.

OPTIONS
  --read-bps SIZE   read no more than SIZE in a second: 1M is 1024^2 bytes, 1MB is 1000^2
  --write-bps SIZE  write no more than SIZE in a second
  --read-iops N     no more than N reads in a second
  --write-iops N    no more than N writes in a second
  --reset           lift all of these, of all disks, or put back what another engine's or a service's were; move back
                    what was moved, and remove its cgroup, unless another limit-*.ts limits something there
  --json            print the result as an object
  --dry-run         print what would be done, as shell
  -h, --help        this text

  cgroup v1 does not hold up buffered writes: they go to memory, and from there to the disk in the kernel's name. Only
  reads, O_DIRECT and fsync'ed writes are. v2 holds up buffered writes too, but only on file systems that tell whose
  they are (ext4, xfs, btrfs), and if the memory controller is on there as well.

EXAMPLES
  limit-io.ts web / --write-bps 10M
  limit-io.ts 10028 /dev/sda --read-bps 50M --read-iops 1000
  limit-io.ts --reset web

CHANGES
  io.max of one cgroup; with v1 blkio.throttle.*_device. Where it has to make one: the cgroup barehand/pid-PID, and who
  is in it. /run/barehand/pid-PID, where it notes from which cgroup they came, or what the limits of a cgroup that is
  not ours were. Both go with --reset; once the processes have ended, with the next call.

UNDO
  limit-io.ts --reset TARGET

SEE ALSO
  cgroups(7), lsblk(8), the kernel's admin-guide/cgroup-v2 (IO, Writeback) and admin-guide/cgroup-v1/blkio-controller,
  limit-memory.ts
*/
import type { Setting } from './helpers/cgroups.ts';
import { main, UsageError } from './helpers/cli.ts';
import { parseNumber, parseSize } from './helpers/units.ts';
import { findDisk } from './limit/disk.ts';
import { commonOptions, limitTarget } from './limit/limit.ts';

export const options = {
  readBps: { parse: parseSize },
  writeBps: { parse: parseSize },
  readIops: { parse: (text: string) => parseNumber('--read-iops', text, 1, 4_294_967_295) },
  writeIops: { parse: (text: string) => parseNumber('--write-iops', text, 1, 4_294_967_295) },
  ...commonOptions,
} as const;

const all = ['readBps', 'writeBps', 'readIops', 'writeIops'] as const;

await main(import.meta.url, { options, operands: [1, 2] }, (values, [text = '', path]) => {
  const { reset } = values;
  const asked = all.filter((limit) => values[limit] !== undefined);
  if (reset && (path !== undefined || asked.length > 0))
    throw new UsageError('--reset takes neither a DEVICE nor limits: it lifts all of them');
  if (!reset && path === undefined) throw new UsageError('DEVICE or PATH is missing');
  if (!reset && asked.length === 0)
    throw new UsageError(`one of --read-bps, --write-bps, --read-iops, --write-iops is missing`);
  const disk = path === undefined ? undefined : findDisk(path);

  return limitTarget(text, values, {
    script: 'limit-io',
    all: [...all],
    asked,
    wanted: () =>
      asked.map((limit): Setting => ({ limit, device: disk?.device ?? '', text: String(values[limit]) })),
    usage: () => ({
      text: disk ? `${disk.device} is ${disk.name}` : '',
      json: disk ? { disk: disk.name, device: disk.device } : {},
    }),
    remarks: ({ hierarchy: { version } }, wanted) => [
      ...(version === 1 && wanted.some(({ limit }) => limit.startsWith('write'))
        ? ['cgroup v1 does not hold up buffered writes, only O_DIRECT and fsync']
        : []),
      ...(disk && ['btrfs', 'zfs', 'bcachefs'].includes(disk.type)
        ? [`${disk.type} may be on more disks than ${disk.name}: limit each of them`]
        : []),
    ],
    explain: (code) =>
      code === 'ENODEV' || code === 'ENXIO'
        ? 'the disk is gone, or takes no limits: see lsblk(8)'
        : undefined,
  });
});
