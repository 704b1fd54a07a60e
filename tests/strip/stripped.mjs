// `node --import stripped.mjs`: takes .ts files from where strip.mjs keeps them without types.
import { register } from 'node:module';

register('./stripped-hooks.mjs', import.meta.url);
