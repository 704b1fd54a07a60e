// JSON Schema, as much of draft 4 as the schemas of OCI's specifications use: https://json-schema.org/draft-04
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

type Schema = Record<string, unknown>;

const kindOf = (value: unknown) =>
  value === null
    ? 'null'
    : Array.isArray(value)
      ? 'array'
      : typeof value === 'number' && Number.isInteger(value)
        ? 'integer'
        : typeof value;

/**
 * What is wrong with a value, by the schema in a file of a folder; empty: nothing. Stricter than JSON Schema: where a schema
 * lists properties, others are wrong, so that none is misspelled.
 */
export function schemaErrors(folder: string, file: string, value: unknown): string[] {
  const resolve = (within: string, reference: string): [string, Schema] => {
    const [name, pointer = ''] = reference.split('#') as [string, string?];
    const target = name || within;
    let found = JSON.parse(readFileSync(join(folder, target), 'utf8')) as Schema;
    for (const key of pointer.split('/').filter(Boolean)) found = found[key] as Schema;
    return [target, found];
  };
  const check = (within: string, schema: Schema, value: unknown, at: string): string[] => {
    if (typeof schema.$ref === 'string') return check(...resolve(within, schema.$ref), value, at);
    const list = (key: string) => (schema[key] ?? []) as Schema[];
    const kind = kindOf(value);
    const types = [schema.type ?? []].flat();
    const errors: string[] = [];
    if (types.length > 0 && !types.includes(kind) && !(kind === 'integer' && types.includes('number')))
      errors.push(`${at}: ${kind}, not ${types}`);
    if (Array.isArray(schema.enum) && !schema.enum.includes(value))
      errors.push(`${at}: ${value} is no choice`);
    if (typeof schema.pattern === 'string' && !new RegExp(schema.pattern).test(String(value)))
      errors.push(`${at}: ${value} does not match ${schema.pattern}`);
    if (typeof value === 'number' && (value < Number(schema.minimum) || value > Number(schema.maximum)))
      errors.push(`${at}: ${value} is out of range`);
    for (const one of list('allOf')) errors.push(...check(within, one, value, at));
    for (const key of ['anyOf', 'oneOf']) {
      const choices = list(key).map((one) => check(within, one, value, at));
      if (choices.length > 0 && !choices.some((one) => one.length === 0)) errors.push(...choices.flat());
    }
    if (kind === 'array')
      for (const [index, one] of (value as unknown[]).entries())
        errors.push(...check(within, (schema.items ?? {}) as Schema, one, `${at}/${index}`));
    if (kind !== 'object') return errors;
    const given = value as Schema;
    for (const key of (schema.required ?? []) as string[])
      if (!(key in given)) errors.push(`${at}: ${key} is missing`);
    const properties = schema.properties as Record<string, Schema> | undefined;
    for (const [key, one] of Object.entries(given)) {
      const known = properties?.[key];
      if (known) errors.push(...check(within, known, one, `${at}/${key}`));
      else if (properties) errors.push(`${at}: ${key} is unknown`);
      for (const [pattern, known] of Object.entries(
        (schema.patternProperties ?? {}) as Record<string, Schema>,
      ))
        if (new RegExp(pattern).test(key)) errors.push(...check(within, known, one, `${at}/${key}`));
    }
    return errors;
  };
  return check(...resolve(file, file), value, '');
}
