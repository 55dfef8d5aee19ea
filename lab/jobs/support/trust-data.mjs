/**
 * Checks of `trust`: what of a session's memory reaches applications. A disk in this process claims
 * more, or less, than it has written, in a memory that is full of the data of other requests; an
 * application reads it past the page cache into a buffer that it knows.
 */

import { open } from 'node:fs/promises';
import { constants } from 'node:fs';
import { Mapping } from '../../../dist/native/index.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { check } from './checks.mjs';
import { INDIRECT, OwnDevice } from './own-device.mjs';
import { diskNode } from './own-disk.mjs';
