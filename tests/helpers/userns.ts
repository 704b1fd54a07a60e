// Whether containers can be had whose root is not the host's: not every file system can be mounted with mapped IDs.
import { container } from './container.ts';
import { needs } from './needs.ts';
import { call, rootfs } from './script.ts';

/** For tests that start run.ts --userns: false, or the reason why it can't be had of this rootfs on this machine. */
export async function needsMappedIds(): Promise<false | string> {
  const missing = container.skip || needs('user-namespaces');
  if (missing) return missing;
  const { code, stderr } = await call('run', ['--userns', rootfs, 'true']);
  return code !== 0 && /mapped IDs|idmap|mount_setattr|needs mount\(8\)/.test(stderr) && stderr.trim();
}
