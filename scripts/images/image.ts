// Images as the OCI image specification has them: descriptors, manifests, indexes, platforms.
// https://github.com/opencontainers/image-spec
import { Failure } from '../helpers/cli.ts';

/** The file in a root file system that holds the configuration of its image. It is no part of the content. */
export const imageFile = '.image.json';

/** What names a blob: its digest, size in bytes and media type (image-spec, descriptor.md). */
export interface Descriptor {
  mediaType: string;
  /** `sha256:` and 64 hexadecimal digits */
  digest: string;
  size: number;
  platform?: Platform;
  annotations?: Record<string, string>;
}

/** What an image runs on, in the words of Go: `linux`, `amd64`, and `v7` or nothing. */
export interface Platform {
  os: string;
  architecture: string;
  variant?: string;
}

/** An image for one platform (image-spec, manifest.md). */
export interface Manifest {
  schemaVersion: 2;
  mediaType: string;
  config: Descriptor;
  /** the base layer first */
  layers: Descriptor[];
  annotations?: Record<string, string>;
}

/** Where images come from: a registry, an archive, or a directory. What it yields is not verified yet. */
export interface ImageSource {
  /** how messages name it, without a password */
  name: string;
  /** The manifest or index that a tag or a digest names, as its bytes. Throws Failure if there is none. */
  openManifest(reference: string): Promise<{ mediaType: string; bytes: Buffer }>;
  /** The bytes of a blob from `offsetBytes` on. */
  openBlob(blob: Descriptor, offsetBytes: number): AsyncIterable<Buffer>;
  /** Closes what is open. */
  close(): Promise<void>;
}

/** An image whose manifest and configuration are read and verified. */
export interface Image {
  source: ImageSource;
  manifest: Manifest;
  manifestDigest: string;
  /** the configuration (image-spec, config.md), as its bytes */
  config: Buffer;
  /** the digests of the uncompressed layers: rootfs.diff_ids of the configuration */
  diffIds: string[];
}

/** What JSON of others holds, before it is used. */
export const isText = (value: unknown): value is string => typeof value === 'string';
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Throws Failure for what is no digest that can be verified here. A digest is also a file name: it has no slash. */
export function checkDigest(text: unknown): string {
  if (typeof text === 'string' && /^sha256:[0-9a-f]{64}$/.test(text)) return text;
  throw new Failure(`not a sha256 digest: ${JSON.stringify(text)}`);
}

/** The name of a blob's file in an OCI layout, image-layout.md. Throws Failure as checkDigest. */
export const blobName = (digest: unknown) => `blobs/${checkDigest(digest).replace(':', '/')}`;
