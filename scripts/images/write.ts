// Images that are made here, and the files that hold them: the OCI image layout, and the archive of docker save.
// https://github.com/opencontainers/image-spec: config.md, manifest.md, image-layout.md
import { closeSync, constants, copyFileSync, linkSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { blobName, type Descriptor, type Manifest, type Platform } from './image.ts';
import { digestOf } from './verify.ts';

/** An image that was made here, for a registry or an archive. */
export interface PackedImage {
  manifest: Manifest;
  /** the manifest as the bytes that `manifestDigest` is the digest of */
  manifestBytes: Buffer;
  manifestDigest: string;
  platform: Platform;
  /** the configuration, as its bytes; `manifest.config` describes it */
  config: Buffer;
  /** the files of the layers, by digest */
  blobs: Map<string, string>;
}

/** A layer: its blob, and the digest of that when it is uncompressed. */
export interface Layer {
  descriptor: Descriptor;
  diffId: string;
  /** the file that holds the blob */
  file: string;
  /** what of `history` in the configuration is about this layer */
  history?: object;
}

/** How blobs of layers are compressed, and what names them then (image-spec, layer.md). */
export const layerTypes = {
  none: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const;

const manifestType = 'application/vnd.oci.image.manifest.v1+json';
const configType = 'application/vnd.oci.image.config.v1+json';
const indexType = 'application/vnd.oci.image.index.v1+json';

/** A value as JSON, always the same bytes: its keys in the order in which they were set. */
const toBytes = (value: unknown) => Buffer.from(JSON.stringify(value));

/**
 * Puts an image together. `config` is what a container is started with (image-spec, config.md, the field of that name).
 * `created` is a date, since the same content has to make the same bytes.
 */
export function packImage(layers: Layer[], platform: Platform, config: object, created: Date): PackedImage {
  const when = created.toISOString().replace('.000Z', 'Z');
  const { os, architecture, variant } = platform;
  const configBytes = toBytes({
    created: when,
    architecture,
    ...(variant && { variant }),
    os,
    config,
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(({ history }) => ({ created: when, ...history })),
  });
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: configType, digest: digestOf(configBytes), size: configBytes.length },
    layers: layers.map(({ descriptor }) => descriptor),
  };
  const manifestBytes = toBytes(manifest);
  return {
    manifest,
    manifestBytes,
    manifestDigest: digestOf(manifestBytes),
    platform,
    config: configBytes,
    blobs: new Map(layers.map(({ descriptor, file }) => [descriptor.digest, file])),
  };
}

/** The name of an image in an archive: in full, `docker.io/library/web:1`, if it has one; and the tag of it. */
export interface ImageName {
  full: string | undefined;
  tag: string;
}

/** Makes the directory of an OCI image layout with one image. Throws the kernel's error. */
export function writeOciLayout(image: PackedImage, name: ImageName, directory: string): void {
  const { manifest, manifestBytes, manifestDigest, platform, config, blobs } = image;
  const blobFile = (digest: string) => join(directory, blobName(digest));
  mkdirSync(directory, { mode: 0o700 }); // layers may hold password hashes and keys
  mkdirSync(join(directory, 'blobs/sha256'), { recursive: true });
  for (const [digest, file] of blobs) linkOrCopy(file, blobFile(digest));
  writeFileSync(blobFile(manifest.config.digest), config);
  writeFileSync(blobFile(manifestDigest), manifestBytes);
  const index = {
    schemaVersion: 2,
    mediaType: indexType,
    manifests: [
      {
        mediaType: manifestType,
        digest: manifestDigest,
        size: manifestBytes.length,
        annotations: {
          // what containerd and docker load take for the name; ref.name is what skopeo and umoci take after DIR:
          ...(name.full && { 'io.containerd.image.name': name.full }),
          'org.opencontainers.image.ref.name': name.tag,
        },
        platform,
      },
    ],
  };
  writeFileSync(join(directory, 'index.json'), toBytes(index));
  writeFileSync(join(directory, 'oci-layout'), toBytes({ imageLayoutVersion: '1.0.0' }));
}

/** One file for both names where the file system can; a copy otherwise. */
function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to, constants.COPYFILE_FICLONE);
  }
}

/** Makes the one-file form of an OCI layout, or with `docker` of docker save, from a directory that writeOciLayout made. */
async function writeArchive(directory: string, names: string[], file: string): Promise<void> {
  const { create } = await import('tar');
  closeSync(openSync(file, 'wx', 0o600)); // as docker save does
  await create(
    {
      file,
      cwd: directory,
      strict: true,
      noDirRecurse: true,
      // neither owners, times nor modes, which umask(2) has changed
      portable: true,
      mtime: new Date(0),
      filter: (_, stat) => Boolean(Object.assign(stat, { mode: constants.S_IFREG | 0o644 })),
    },
    names,
  );
}

/** The names of the files of a layout, in the order in which archives have them. */
const filesOf = ({ manifest, manifestDigest, blobs }: PackedImage) => [
  'oci-layout',
  'index.json',
  ...[...new Set([manifestDigest, manifest.config.digest, ...blobs.keys()])].sort().map(blobName),
];

/** Makes an archive of an OCI layout. `scratch` is a directory that it makes, on the same file system. */
export async function writeOciArchive(image: PackedImage, name: ImageName, file: string, scratch: string) {
  writeOciLayout(image, name, scratch);
  await writeArchive(scratch, filesOf(image), file);
}

/**
 * Makes an archive as docker save does since Docker 25: an OCI layout with a manifest.json, by which older versions and
 * podman find the same blobs.
 */
export async function writeDockerArchive(image: PackedImage, name: ImageName, file: string, scratch: string) {
  writeOciLayout(image, name, scratch);
  const described = {
    Config: blobName(image.manifest.config.digest),
    RepoTags: name.full ? [name.full] : null,
    Layers: image.manifest.layers.map(({ digest }) => blobName(digest)),
  };
  writeFileSync(join(scratch, 'manifest.json'), toBytes([described]));
  await writeArchive(scratch, ['manifest.json', ...filesOf(image)], file);
}
