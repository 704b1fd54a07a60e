// fetch-rootfs.ts ls and rm: what is in rootfs/ is listed, and removed.
import { join } from 'node:path';
import { HelpNeeded, isGiven, kebab, reason, UsageError } from '../helpers/cli.ts';
import { escapeControls } from '../helpers/messages.ts';
import { toJson } from '../helpers/output.ts';
import { rootfsFolder } from '../helpers/rootfs.ts';
import { sh } from '../helpers/shell.ts';
import { toShell } from '../helpers/steps.ts';
import { formatDuration, formatSize } from '../helpers/units.ts';
import { shortDigest } from '../images/verify.ts';
import { findNamed, listNamed, type Named, removeNamed } from './named.ts';

/** Throws UsageError for an option that `ls` or `rm` does not have. */
function allowOnly(command: string, allowed: string[], values: object): void {
  const [name] =
    Object.entries(values).find(([key, value]) => !allowed.includes(key) && isGiven(value)) ?? [];
  if (name) throw new UsageError(`--${kebab(name)} does not go with ${command}`);
}

/** Prints the root file systems in rootfs/. */
export async function list(values: { json: boolean }, operands: string[]): Promise<number> {
  allowOnly('ls', ['json'], values);
  if (operands.length > 0) throw new HelpNeeded(`one operand too many: ${operands[0]}`);
  const all = await listNamed();
  if (values.json) console.log(toJson(all, 2));
  else if (all.length === 0) console.error(`${rootfsFolder} has no root file system`);
  else console.log(await listText(all, Date.now()));
  return 0;
}

/** The table that ls prints. `now`: milliseconds, as Date.now(). */
async function listText(all: Named[], now: number): Promise<string> {
  const { table } = await import('../helpers/table.ts');
  const rows = all.map(({ name, bytes, source, digest, fetchedAt }) => [
    name,
    bytes === null ? '?' : formatSize(bytes),
    fetchedAt ? formatDuration(Math.max(0, (now - Date.parse(fetchedAt)) / 1000)) : '?',
    digest ? shortDigest(digest) : '',
    source ?? '?',
  ]);
  return table(
    ['NAME', 'SIZE', 'AGE', 'DIGEST', 'SOURCE'],
    rows.map((row) => row.map(escapeControls)),
    { align: ['left', 'right', 'right'] },
  );
}

/** Removes root file systems in rootfs/ that nothing uses. Goes on after a failure. */
export async function remove(
  values: { dryRun: boolean; quiet: boolean },
  operands: string[],
): Promise<number> {
  allowOnly('rm', ['dryRun', 'quiet'], values);
  if (operands.length === 0) throw new HelpNeeded('rm needs a NAME');
  let failed = false;
  for (const name of operands)
    try {
      if (values.dryRun) process.stdout.write(toShell([{ run: sh`rm -rf -- ${findNamed(name)}` }]));
      else {
        await removeNamed(name);
        if (!values.quiet) console.error(escapeControls(`removed ${join(rootfsFolder, name)}`));
      }
    } catch (error) {
      failed = true;
      console.error(escapeControls(`fetch-rootfs: cannot remove ${name}: ${reason(error)}`));
    }
  return failed ? 1 : 0;
}
