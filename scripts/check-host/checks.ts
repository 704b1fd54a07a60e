// What the scripts depend on: each check says whether this host has it, what it costs to lack it, and how to get it.

/** The scripts that depend on this host. */
export const scripts = [
  ...['fetch-rootfs', 'pack-rootfs', 'run', 'exec', 'ps', 'inspect', 'logs', 'stop'],
  ...['limit-memory', 'limit-cpu', 'limit-pids', 'limit-io', 'network'],
] as const;
export type Script = (typeof scripts)[number];

/** One thing that scripts depend on. */
export interface Check {
  subject: 'kernel' | 'cgroups' | 'users' | 'programs';
  name: string;
  ok: boolean;
  /** what was found: a version, a place, or the reason why it does not work */
  found: string;
  /** what does not work without it */
  cost: string;
  /** a command that gets it, or what to do; '' if nothing is known */
  remedy: string;
  /** scripts that fail without it */
  needs: readonly Script[];
  /** scripts that work without it, except for what `cost` says */
  limits: readonly Script[];
}

/** Whether a script works here, and the names of missing things that are the reason if it does not, or not wholly. */
export interface Verdict {
  script: Script;
  state: 'works' | 'limited' | 'fails';
  because: string[];
}

/** What the checks mean for each of these scripts. */
export function judge(checks: Check[], names: readonly Script[] = scripts): Verdict[] {
  const missing = checks.filter(({ ok }) => !ok);
  const namesWhere = (of: 'needs' | 'limits', script: Script) =>
    missing.filter((check) => check[of].includes(script)).map(({ name }) => name);
  return names.map((script) => {
    const fatal = namesWhere('needs', script);
    const because = fatal.length > 0 ? fatal : namesWhere('limits', script);
    return { script, state: fatal.length > 0 ? 'fails' : because.length > 0 ? 'limited' : 'works', because };
  });
}
