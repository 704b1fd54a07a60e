// What manifests for Kubernetes and for Nomad have in common: they are made of the options of run.ts. An option that an
// engine has no counterpart for is reported, never dropped silently.
import { capabilities } from '../helpers/capabilities.ts';
import { isGiven, kebab, type Values } from '../helpers/cli.ts';
import type { User } from '../run/command.ts';
import type { Tmpfs, Volume } from '../run/furnish.ts';
import { mergeSecurity, type options } from '../run/options.ts';

/** The options of run.ts, with what --sandbox means. */
export type RunOptions = Values<typeof options>;

/** What a manifest is made of. */
export interface Launched {
  values: RunOptions;
  /** the image that a registry has, as engines name it */
  image: string;
  /** the words of the command; with --entrypoint, its arguments. Empty: what the image says */
  command: string[];
  /** IDs of the user and groups that options name; undefined: those of the image */
  user: User | undefined;
  /** groups of --group-add */
  groups: number[];
}

/** A manifest, as a value of JSON without what is undefined, and a line for each option that it can't hold in full. */
export interface Manifest {
  manifest: unknown;
  remarks: string[];
}

/** For each option true if the manifest holds it, or what takes its place; so a new option can't be forgotten. */
export type Table = Record<keyof RunOptions, true | string>;

/** What is told of options that a table has no counterpart for. */
const untold = (values: RunOptions, table: Table): string[] =>
  (Object.keys(table) as (keyof RunOptions)[]).flatMap((option) => {
    const instead = table[option];
    return instead !== true && isGiven(values[option]) ? `--${kebab(option)}: ${instead}` : [];
  });

/** A value of JSON without what is undefined or empty, at any depth. undefined: nothing is left. */
export function tidy(value: unknown): unknown {
  if (Array.isArray(value)) return value.length > 0 ? value.map(tidy) : undefined;
  if (typeof value !== 'object' || value === null) return value;
  const fields = Object.entries(value).map(([key, one]) => [key, tidy(one)] as const);
  const given = fields.filter(([, one]) => one !== undefined);
  return given.length > 0 ? Object.fromEntries(given) : undefined;
}

/** A name that DNS takes as a label, RFC 1123. */
export const dnsLabel = (text: string) =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, 63)
    .replace(/-+$/, '') || 'container';

/** The name of a container: --name, or the last component of the image's. */
const nameOf = ({ values: { name }, image }: Launched) =>
  dnsLabel(
    name ??
      image
        .replace(/@.*$/, '')
        .replace(/:[^:/]*$/, '')
        .replace(/^.*\//, ''),
  );

/** KEY=VALUE as a pair. */
export const pair = (text: string): [string, string] => [
  text.split('=', 1)[0] ?? '',
  text.slice(text.indexOf('=') + 1),
];

/** The variables that options set; of several values for a key, the last one counts. */
const variables = ({ env, envFile }: RunOptions) => [
  ...new Map([...envFile.flat(), ...env].filter(Boolean).map(pair)),
];

/** What all manifests are made of; `table` is that of the engine. A manifest adds its own remarks. */
export function prepare(launched: Launched, table: Table) {
  const { values, user, groups } = launched;
  const { cpus, volume, mount, tmpfs } = values;
  const { mask = [], unmask = [], seccomp, newPrivileges } = mergeSecurity(values);
  return {
    remarks: untold(values, table),
    name: nameOf(launched),
    volumes: [...volume, ...mount.flatMap((one) => ('volume' in one ? one.volume : []))],
    tmpfs: [...tmpfs, ...mount.flatMap((one) => ('tmpfs' in one ? one.tmpfs : []))],
    labels: values.label.map(pair),
    env: variables(values),
    groups: [...new Set([...(user?.groups ?? []), ...groups])],
    nameservers: values.dns.map((line) => line.replace(/^nameserver /, '')),
    sysctls: values.sysctl.map(({ name, value }) => ({ name: name.replaceAll('/', '.'), value })),
    /** --cpus, if it is a limit */
    cpuLimit: cpus !== undefined && Number.isFinite(cpus) ? cpus : undefined,
    mask,
    unmask,
    masksNothing: unmask.includes('ALL'),
    hasSeccomp: seccomp !== false,
    mayGainPrivileges: newPrivileges === true,
  };
}

/** What is told of a volume: where it is, and its options that no engine has. */
export function volumeRemarks({ path, options: words }: Volume, where: string): string[] {
  const others = words.filter((word) => /^no(suid|exec)$/.test(word));
  return [
    `--volume ${path}: ${where}`,
    ...(others.length > 0 ? [`--volume ${path}: no counterpart for ${others}`] : []),
  ];
}

/** The size of a tmpfs in bytes, and its mode; and those of its options that only run.ts knows. */
export function readTmpfs({ options: words }: Tmpfs) {
  const last = (form: RegExp) => words.findLast((word) => form.test(word))?.replace(/^\w+=/, '');
  const [, digits, unit = ''] = /^(\d+)([kmg]?)$/i.exec(last(/^size=/i) ?? '') ?? [];
  const exponent = { '': 0, k: 1, m: 2, g: 3 }[unit.toLowerCase()] ?? 0;
  const mode = last(/^mode=/i);
  const others = words.filter((word) => /^(uid|gid|nr_inodes|size=.*%|exec|suid|ro$)/i.test(word));
  return {
    sizeBytes: digits === undefined ? undefined : Number(digits) * 1024 ** exponent,
    mode: mode === undefined ? undefined : Number.parseInt(mode, 8),
    others,
  };
}

/** Names of capabilities as engines have them. */
export const capabilityNames = (lists: string[][]) =>
  lists.flatMap((list) =>
    list.length === capabilities.length ? ['ALL'] : list.map((name) => name.toUpperCase()),
  );

/** What the default network of run.ts, that of the host, becomes. */
export const noHost = (how: string) =>
  `--network: without it, run.ts shares the network of the host; here the container has its own: ${how} shares that of the node`;
