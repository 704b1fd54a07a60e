// How an engineer would unpack an archive by hand, for --dry-run. fetch-rootfs.ts itself checks the archive in the
// stream, and confines tar(1): that is no short runbook.
import { sh } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import { type TarInspector, usualDevices } from '../images/inspector.ts';
import { planRoot, tarOptions } from '../images/unpack.ts';

/** An archive, as far as it is known. */
interface Archive {
  /** `-` is standard input */
  file: string;
  /** where it is to be downloaded from, to `file` */
  url: string | undefined;
  sha256: string | undefined;
  /** leading components to strip; undefined: nobody has looked into it */
  strip: number | undefined;
  /** it was checked already, as fetch-rootfs.ts does it */
  inspector: TarInspector | undefined;
}

/** The steps that unpack an archive into the empty directory `root`. */
export function planByHand(root: string, archive: Archive, skipDevices: boolean): Step[] {
  const { file, url, sha256, strip, inspector } = archive;
  const steps: Step[] = [];
  if (url)
    steps.push({
      why: 'fetch-rootfs.ts resumes a download that breaks, and stores no archive',
      run: sh`curl --fail --location --output ${file} ${url}`,
    });
  if (sha256 && file !== '-')
    steps.push({ run: sh`sha256sum --check --quiet`, input: `${sha256}  ${file}\n` });

  const remarks = inspector
    ? [
        'fetch-rootfs.ts has checked this archive. When it unpacks one, it also confines tar in a mount namespace and a chroot.',
      ]
    : [
        'fetch-rootfs.ts checks each header, --max-size and --max-entries in the stream, and confines tar in a mount',
        'namespace and a chroot. This does not: unpack only an archive that you trust.',
      ];
  if (file === '-') {
    remarks.push('Standard input is the archive. If it is compressed, add --gzip, --xz, --zstd or --bzip2.');
    if (sha256) remarks.push(`Compare its sum first, sha256sum(1): ${sha256}`);
  }
  if (strip === undefined)
    remarks.push(
      `If all names begin with one directory, such as rootfs/, add --strip-components=1${file === '-' ? '.' : `: tar -tf ${file} | head`}`,
    );
  const stripping = strip ? [`--strip-components=${strip}`] : [];
  steps.push({
    why: remarks.join('\n'),
    run: sh`tar --extract --file=${file} --directory=${root} ${stripping} ${tarOptions}`,
  });
  if (skipDevices) {
    const usual = Object.keys(usualDevices).flatMap((name) => ['!', '-path', `${root}/dev/${name}`]);
    steps.push({
      why: 'device nodes that a root file system does not need',
      run: sh`find ${root} ( -type b -o -type c ${usual} ) -delete`,
    });
  }
  if (strip && inspector?.rootAttributes) steps.push(...planRoot(root, inspector.rootAttributes));
  if (url) steps.push({ remove: file });
  return steps;
}
