// Writes docs/reference/errors.md. Wants a build: `npm run docs:errors` makes one where needed.
import { writeFileSync } from 'node:fs';
import { ERROR_TABLE } from '../dist/errors.js';
import { renderErrorPage } from './error-page.mjs';

const page = new URL('../docs/reference/errors.md', import.meta.url);
writeFileSync(page, renderErrorPage(ERROR_TABLE));
