// How an engineer would unpack an archive by hand, for --dry-run. fetch-rootfs.ts itself checks the archive in the
// stream, and confines tar(1): that is no short runbook.
import { quote, sh } from '../helpers/shell.ts';
import { printCommand, type Step } from '../helpers/steps.ts';
import { type Image, imageFile } from '../images/image.ts';
import { type TarInspector, usualDevices } from '../images/inspector.ts';
import type { ByHand } from '../images/registry.ts';
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

/** The shell commands that apply a layer, `file`, quoted, to the directory `root`. */
const applyLines = (root: string, file: string) => [
  '  # .wh.NAME removes NAME of the layers below, .wh..wh..opq all that they have in a directory',
  `  tar --list --file=${file} | grep -E '(^|/)\\.wh\\.[^/]*$' | while read -r name; do`,
  `    in=${quote(root)}/$(dirname "$name") base=\${name##*/}`,
  `    if [ "$base" = .wh..wh..opq ]; then find "$in" -mindepth 1 -delete; else rm -rf "$in/\${base#.wh.}"; fi`,
  '  done',
  `  tar --extract --file=${file} --directory=${quote(root)} --exclude='.wh.*' ${tarOptions.map(quote).join(' ')}`,
];

const layersRemark = [
  '# the layers, the base first. fetch-rootfs.ts checks each header, and confines tar and the removal of files in a mount',
  '# namespace and a chroot. This does not: unpack only an image that you trust.',
];

/**
 * The shell commands that make a root file system of an image in a registry in the empty directory `root`. fetch-rootfs.ts
 * also checks and confines as for an archive; and whiteouts, which remove what lower layers have, act inside of the root
 * only.
 */
export function printImage(root: string, image: Image, { blobs, token, user }: ByHand): string {
  const file = quote(`${root}.layer`);
  const login = token ? ' --oauth2-bearer "$token"' : user ? ` --user ${quote(user)}` : '';
  const fetch = (digest: string, to: string) =>
    `curl --fail --location${login} --output ${to} ${quote(blobs.href)}${digest}`;
  const digests = image.manifest.layers.map(({ digest }) => digest.slice('sha256:'.length));
  const lines = [
    ...(token
      ? [
          '# what the registry asks for; it is valid for some minutes',
          `token=$(curl --fail --silent${user ? ` --user ${quote(user)}` : ''} ${quote(token.href)} |`,
          `  sed -n 's/.*"\\(access_\\)\\{0,1\\}token" *: *"\\([^"]*\\)".*/\\2/p')`,
        ]
      : []),
    ...layersRemark,
    `for layer in ${digests.join(' \\\n  ')}; do`,
    `  ${fetch('sha256:$layer', file)} || break`,
    `  echo "$layer  "${file} | sha256sum --check --quiet || break`,
    ...applyLines(root, file),
    'done',
    '# the configuration, which run.ts reads',
    fetch(image.manifest.config.digest, quote(`${root}/${imageFile}`)),
    `rm ${file}`,
  ];
  return lines.map((line) => `${line}\n`).join('');
}

/**
 * The same for an image in a file. `directory` is an OCI layout, and `layers` and `config` are files in it; without
 * `directory` they are files in the archive `file`.
 */
export function printArchive(
  root: string,
  { file, directory, layers, config }: { file: string; directory?: string; layers: string[]; config: string },
): string {
  const folder = directory ?? `${root}.image`;
  const lines = [
    ...(directory
      ? []
      : [
          printCommand(sh`mkdir ${folder}`),
          printCommand(sh`tar --extract --file=${file} --directory=${folder}`),
        ]),
    ...layersRemark,
    `for layer in ${layers.map(quote).join(' \\\n  ')}; do`,
    ...applyLines(root, `${quote(folder)}/"$layer"`),
    'done',
    '# the configuration, which run.ts reads',
    printCommand(sh`cp ${folder}/${config} ${root}/${imageFile}`),
    ...(directory ? [] : [printCommand(sh`rm -r ${folder}`)]),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
