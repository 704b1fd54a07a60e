// `node --import stripped.mjs`: takes .ts files from where strip.mjs has put them, BAREHAND_STRIPPED.
import { register } from 'node:module';

register('./stripped-hooks.mjs', import.meta.url);
