// From a reference to an image: index, manifest for a platform, configuration. Each is verified before it is read.
// https://github.com/opencontainers/image-spec
import { Failure, UsageError } from '../helpers/cli.ts';
import {
  checkDigest,
  type Descriptor,
  type Image,
  type ImageSource,
  isText,
  type Manifest,
  type Platform,
} from './image.ts';
import { digestOf, readBlob } from './verify.ts';

/** Registries take manifests of no more; the distribution specification has this number. */
export const maxManifestBytes = 4 << 20;
/** an index in an index; more is a riddle */
const maxDepth = 4;
const maxLayers = 1000;

/** Media types of manifests, as an Accept header: OCI and Docker, indexes and manifests. */
export const manifestTypes = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
] as const;

const isIndexType = (type: string) => type === manifestTypes[0] || type === manifestTypes[2];

const layerForm =
  /^application\/vnd\.(oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?)$/;

/** Names of processors, by those of node, uname(2) and Debian, as Go names them; `arm/v7` with a variant. */
const architectures: Record<string, string> = {
  x64: 'amd64',
  x86_64: 'amd64',
  ia32: '386',
  i386: '386',
  i686: '386',
  x86: '386',
  aarch64: 'arm64',
  armhf: 'arm/v7',
  armv7l: 'arm/v7',
  armel: 'arm/v6',
  ppc64el: 'ppc64le',
  loong64: 'loong64',
};

/** Parses OS/ARCH[/VARIANT], or ARCH[/VARIANT] for Linux. Throws UsageError. */
export function parsePlatform(text: string): Platform {
  const words = text.toLowerCase().split('/');
  const [os, given, variant] = words[0] === 'linux' ? words : ['linux', ...words];
  const [architecture, implied] = (architectures[given ?? ''] ?? given ?? '').split('/') as [
    string,
    ...string[],
  ];
  const isWord = (word: string) => /^[a-z0-9][a-z0-9_.-]{0,31}$/.test(word);
  if (!os || !isWord(architecture) || (variant !== undefined && !isWord(variant)) || words.length > 3)
    throw new UsageError(
      `not a platform of Linux: "${text}": write linux/amd64, linux/arm64 or linux/arm/v7`,
    );
  return normalize({ os, architecture, variant: variant ?? implied });
}

/** The variant that is meant without one: v8 of arm64, v7 of arm. v1 of amd64 is what all of them have. */
function normalize({
  os,
  architecture,
  variant,
}: {
  os: string;
  architecture: string;
  variant: string | undefined;
}) {
  const implied = architecture === 'arm' ? 'v7' : undefined;
  const isImplied =
    (architecture === 'arm64' && variant === 'v8') || (architecture === 'amd64' && variant === 'v1');
  const kept = isImplied ? undefined : variant || implied;
  return { os, architecture, ...(kept && { variant: kept }) };
}

/** What this host runs. */
export function hostPlatform(): Platform {
  const { arch, config } = process;
  const { arm_version: version } = config.variables as unknown as Record<string, string | undefined>;
  // node has one name for ppc64 and ppc64le: Linux distributions for big-endian POWER are gone
  const name = arch === 'arm' ? `arm/v${version ?? 7}` : arch === 'ppc64' ? 'ppc64le' : arch;
  return parsePlatform(name);
}

/** A platform as Docker writes it: `linux/arm/v7`. */
export const showPlatform = ({ os, architecture, variant }: Platform) =>
  [os, architecture, variant].filter(Boolean).join('/');

/** How well a platform suits: 0 best, undefined not at all. An older variant of arm runs on a newer one. */
function rank(wanted: Platform, offered: Platform): number | undefined {
  const { os, architecture, variant } = normalize({ variant: undefined, ...offered });
  if (os !== wanted.os || architecture !== wanted.architecture) return undefined;
  if (variant === wanted.variant) return 0;
  const [older, newer] = [variant, wanted.variant].map((text) => Number(/^v(\d)$/.exec(text ?? '')?.[1]));
  return architecture === 'arm' && older && newer && older < newer ? newer - older : undefined;
}

const word = (text: unknown) => (isText(text) ? text : '');

/** The descriptors of an index or a manifest are text of others: one that is whole, or a Failure. */
function checkDescriptor(value: unknown, what: string): Descriptor {
  const { mediaType, digest, size, platform, annotations } = (value ?? {}) as Record<string, unknown>;
  const { os, architecture, variant } = (platform ?? {}) as Record<string, unknown>;
  if (!isText(mediaType)) throw new Failure(`${what} has no mediaType`);
  if (!Number.isSafeInteger(size) || (size as number) < 0) throw new Failure(`${what} has no size`);
  return {
    mediaType,
    digest: checkDigest(digest),
    size: size as number,
    ...(platform !== undefined && {
      platform: {
        os: word(os),
        architecture: word(architecture),
        ...(variant ? { variant: word(variant) } : {}),
      },
    }),
    ...(annotations !== undefined && { annotations: annotations as Record<string, string> }),
  };
}

/** A manifest or index, parsed. */
interface Document {
  bytes: Buffer;
  digest: string;
  fields: Record<string, unknown>;
  isIndex: boolean;
}

/**
 * Parses a manifest or an index. Its fields tell which it is; a document that could be both, or whose media type says
 * something else, would be another image for another reader (CVE-2021-41190).
 */
function parseDocument(bytes: Buffer, mediaType: string): Document {
  if (bytes.length > maxManifestBytes)
    throw new Failure(`its manifest is larger than ${maxManifestBytes} bytes`);
  const text = bytes.toString();
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(text);
  } catch {
    const isHtml = /^\s*<(!doctype|html|head|body)/i.test(text);
    const begin = JSON.stringify(text.slice(0, 16));
    throw new Failure(
      `its manifest is ${isHtml ? 'an HTML page, such as a login' : 'not JSON'}; it begins with ${begin}`,
    );
  }
  if (typeof fields !== 'object' || fields === null) throw new Failure('its manifest is not a JSON object');
  if (fields.schemaVersion === 1 || 'fsLayers' in fields)
    throw new Failure(
      'its manifest has schema 1, which Docker has given up and which cannot be verified: push the image again with a newer program',
    );
  const [isIndex, isManifest] = ['manifests' in fields, 'layers' in fields || 'config' in fields];
  const types = [fields.mediaType, mediaType].filter((type): type is string =>
    (manifestTypes as readonly unknown[]).includes(type),
  );
  if (isIndex === isManifest || types.some((type) => isIndexType(type) !== isIndex))
    throw new Failure('its manifest is neither an index nor an image, or both');
  return { bytes, digest: digestOf(bytes), fields, isIndex };
}

/** The manifest of an index that suits a platform best. Throws a Failure with those that there are. */
function choosePlatform({ fields }: Document, wanted: Platform): Descriptor {
  if (!Array.isArray(fields.manifests)) throw new Failure('its index has no list of manifests');
  const offered = fields.manifests
    .map((one, at) => checkDescriptor(one, `entry ${at} of its index`))
    .filter(({ mediaType }) => (manifestTypes as readonly string[]).includes(mediaType));
  const [best] = offered
    .map((one) => ({
      one,
      rank: one.platform ? rank(wanted, one.platform) : offered.length === 1 ? 0 : undefined,
    }))
    .filter((one): one is { one: Descriptor; rank: number } => one.rank !== undefined)
    .sort((one, other) => one.rank - other.rank);
  if (best) return best.one;
  throw missingPlatform(
    wanted,
    offered.flatMap(({ platform }) => (platform && platform.os !== 'unknown' ? showPlatform(platform) : [])),
  );
}

/** The error for an image that is not made for a platform, with those that it is made for. */
function missingPlatform(wanted: Platform, offered: string[]): Failure {
  const names = [...new Set(offered)].filter((name) => name.startsWith('linux/')).slice(0, 8);
  const hint = names.length > 0 ? `, but for ${names.join(', ')}: choose one with --platform` : '';
  return new Failure(`there is no image for ${showPlatform(wanted)}${hint}`);
}

/** The manifest of an image, its fields checked. */
function parseManifest({ fields, isIndex }: Document): Manifest {
  if (isIndex) throw new Failure('there is an index instead of a manifest');
  const { layers, annotations } = fields;
  if (!Array.isArray(layers) || layers.length > maxLayers)
    throw new Failure(`its manifest has no list of up to ${maxLayers} layers`);
  const checked = layers.map((layer, at) => checkDescriptor(layer, `layer ${at + 1}`));
  const other = checked.find(({ mediaType }) => !layerForm.test(mediaType));
  if (other)
    throw new Failure(
      /foreign|nondistributable/.test(other.mediaType)
        ? 'a layer is stored outside of the registry, as for Windows'
        : `it is not an image of a root file system: a layer is of the type ${other.mediaType}`,
    );
  return {
    schemaVersion: 2,
    mediaType: isText(fields.mediaType) ? fields.mediaType : manifestTypes[1],
    config: checkDescriptor(fields.config, 'the configuration'),
    layers: checked,
    ...(annotations !== undefined && { annotations: annotations as Record<string, string> }),
  };
}

/** What a configuration says of layers and platform. */
function parseConfig(bytes: Buffer): { diffIds: string[]; platform: Platform } {
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(bytes.toString()) ?? {};
  } catch {
    throw new Failure('its configuration is not JSON');
  }
  const { os, architecture, variant } = config;
  const ids = (config.rootfs as Record<string, unknown> | undefined)?.diff_ids;
  if (!Array.isArray(ids)) throw new Failure('its configuration has no rootfs.diff_ids');
  return {
    diffIds: ids.map(checkDigest),
    platform: { os: word(os), architecture: word(architecture), variant: word(variant) },
  };
}

/**
 * Finds an image and reads its manifest and configuration. `reference` is a tag or a digest. Of an index it takes what
 * suits `platform` best. Throws a Failure where something is missing, is no image for that platform, or does not have
 * the digest and size that it was announced with.
 */
export async function chooseImage(
  source: ImageSource,
  reference: string,
  platform: Platform,
): Promise<Image> {
  let opened = await source.openManifest(reference);
  let document = parseDocument(opened.bytes, opened.mediaType);
  if (reference.startsWith('sha256:') && document.digest !== reference)
    throw new Failure(`its manifest has the digest ${document.digest}, not ${reference}`);
  for (let depth = 0; document.isIndex && depth < maxDepth; depth++) {
    const chosen = choosePlatform(document, platform);
    opened = await source.openManifest(chosen.digest);
    document = parseDocument(opened.bytes, opened.mediaType || chosen.mediaType);
    if (document.digest !== chosen.digest || opened.bytes.length !== chosen.size)
      throw new Failure(
        `its manifest has ${opened.bytes.length} bytes and the digest ${document.digest}, not ${chosen.size} and ${chosen.digest}`,
      );
  }
  const manifest = parseManifest(document);
  const config = await readBlob(source, manifest.config, maxManifestBytes);
  const { diffIds, platform: found } = parseConfig(config);
  if (diffIds.length !== manifest.layers.length)
    throw new Failure(`it has ${manifest.layers.length} layers, but ${diffIds.length} in its configuration`);
  // some programs leave out the variant, or all of it
  const full = { os: found.os || 'linux', architecture: found.architecture || platform.architecture };
  const variant = found.variant || platform.variant;
  if (rank(platform, { ...full, ...(variant && { variant }) }) === undefined)
    throw missingPlatform(platform, [showPlatform({ ...full, ...(variant && { variant }) })]);
  return { source, manifest, manifestDigest: document.digest, config, diffIds };
}
