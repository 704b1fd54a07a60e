// YAML, as far as a manifest needs it.

/** Words of YAML that are no strings where they stand without quotes, in YAML 1.1 as in 1.2. */
const notText = /^(y|n|yes|no|true|false|on|off|null)$/i;

/** A string, number or boolean in YAML. JSON's quotes are YAML's, but for characters that YAML wants escaped. */
const scalar = (value: unknown): string =>
  typeof value === 'string' && /^[a-z][\w./-]*$/i.test(value) && !notText.test(value)
    ? value
    : JSON.stringify(value).replace(
        /[\x7f-\x9f\u2028\u2029\ufeff]/g,
        (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`,
      );

/** A value of JSON as YAML 1.2, which every parser of YAML reads: https://yaml.org/spec/1.2.2/ */
export function toYaml(value: unknown, indent = ''): string {
  const below = (one: unknown) => toYaml(one, `${indent}  `);
  if (Array.isArray(value)) return value.map((one) => `${indent}- ${below(one).trimStart()}`).join('\n');
  if (typeof value !== 'object' || value === null) return indent + scalar(value);
  return Object.entries(value)
    .map(([key, one]) =>
      typeof one === 'object' && one !== null
        ? `${indent}${scalar(key)}:\n${below(one)}`
        : `${indent}${scalar(key)}: ${scalar(one)}`,
    )
    .join('\n');
}
