/** Rules about the text of single files: length, leftovers, banned calls. */
import {
  type AllowList,
  applyAllowList,
  isCode,
  isScript,
  isTest,
  lineAt,
  type RepoFile,
  type Rule,
} from './repo.js';
import { codeOnly, functionsOf } from './source.js';

/** A file longer than this has more than one subject. */
export const FILE_LINES_MAX = 500;
/** A function longer than this does not fit on a screen. */
export const FUNCTION_LINES_MAX = 70;
export const COLUMNS_MAX = 100;

export const filesAreShort =
  (allow: AllowList): Rule =>
  (files) => {
    const long = files.flatMap(({ path, text }) => {
      const count = text.replace(/\n$/, '').split('\n').length;
      if (!isCode(path) || count <= FILE_LINES_MAX) return [];
      return [{ path, message: `${path}: ${count} lines; split it below ${FILE_LINES_MAX}` }];
    });
    return applyAllowList(long, allow);
  };

export const functionsAreShort =
  (allow: AllowList): Rule =>
  (files) => {
    const long = files
      .filter(({ path }) => isScript(path))
      .flatMap((file) =>
        functionsOf(file)
          .filter(({ lineCount }) => lineCount > FUNCTION_LINES_MAX)
          .map(({ name, line, lineCount }) => ({
            path: file.path,
            message: `${file.path}:${line}: ${name} has ${lineCount} lines; split it below ${FUNCTION_LINES_MAX}`,
          })),
      );
    return applyAllowList(long, allow);
  };

/** Strings and addresses are left whole: a broken one can not be searched for. */
const UNBREAKABLE = /'[^']*'|"[^"]*"|`[^`]*`?|https?:\/\/\S+/g;

export const linesAreShort: Rule = (files) =>
  files
    .filter(({ path }) => isCode(path))
    .flatMap(({ path, text }) =>
      text.split('\n').flatMap((line, index) => {
        if (line.replace(UNBREAKABLE, '').length <= COLUMNS_MAX) return [];
        return [`${path}:${index + 1}: ${line.length} columns; at most ${COLUMNS_MAX}`];
      }),
    );

interface Ban {
  readonly pattern: RegExp;
  /** What to write instead. */
  readonly instead: string;
  /** Which files the ban is for. */
  readonly where: (path: string) => boolean;
  readonly allow?: AllowList;
}

const inProduct = (path: string): boolean => path.startsWith('src/') && !isTest(path);
const onDataPath = (path: string): boolean =>
  inProduct(path) && /^src\/(virtio|kit|devices)\//.test(path);

/** Calls with a better replacement. `bigInt` lists the files off the data path that may use it. */
export function bannedCalls(bigInt: AllowList): readonly Ban[] {
  return [
    {
      pattern: /\bkoffi\.decode\b/,
      instead: 'read through a typed array over koffi.view: decode allocates',
      where: () => true,
    },
    {
      pattern: /\bprocess\.exit\(/,
      instead: 'throw a VloError and let src/cli set process.exitCode: exit cuts off open writes',
      where: (path) => inProduct(path) && !path.startsWith('src/cli/'),
    },
    {
      pattern: /\bBigInt\(|\bBig(?:Int|Uint)64Array\b|\b[gs]etBig(?:Int|Uint)64\b/,
      instead: 'split 64-bit values into two u32: a BigInt is garbage for each request',
      where: onDataPath,
      allow: bigInt,
    },
    {
      pattern: /\bnew Error\(/,
      instead: 'throw a VloError with its code, a DriverFault, or use assert()',
      where: (path) => inProduct(path) && path !== 'src/errors.ts',
    },
    {
      pattern: /\.terminate\(/,
      instead: 'wake the worker and let it end: terminate() crashes one that polls',
      where: inProduct,
    },
    {
      pattern: /\bexecSync\(/,
      instead: 'call execFileSync: a shell reads meaning into names of files',
      where: isScript,
    },
  ];
}

export const noBannedCalls =
  (bigInt: AllowList): Rule =>
  (files) =>
    bannedCalls(bigInt).flatMap(({ pattern, instead, where, allow }) => {
      const hits = files
        .filter(({ path }) => isScript(path) && where(path))
        .flatMap((file) => {
          const match = pattern.exec(codeOnly(file));
          if (match === null) return [];
          const line = lineAt(file.text, match.index);
          const name = match[0].replace(/\($/, '');
          return [{ path: file.path, message: `${file.path}:${line}: ${name}: ${instead}` }];
        });
      return applyAllowList(hits, allow ?? {});
    });

interface Leftover {
  readonly pattern: RegExp;
  readonly message: string;
  readonly where: (path: string) => boolean;
  /** Look at comments and strings as well. */
  readonly everywhere?: true;
}

const LEFTOVERS: readonly Leftover[] = [
  {
    pattern: /\b(TODO|FIXME|XXX|HACK)\b/,
    message: 'do it, or open an issue',
    where: isCode,
    everywhere: true,
  },
  {
    pattern: /^(<{7}|>{7}|\|{7}) /m,
    message: 'a merge marker',
    where: () => true,
    everywhere: true,
  },
  {
    pattern: /\bconsole\.\w+\(/,
    message: 'write through the log, or to a stream in src/cli',
    where: (path) => path.startsWith('src/') && !path.startsWith('src/cli/'),
  },
  { pattern: /\bdebugger\b/, message: 'left from debugging', where: isScript },
  { pattern: /\.only\(/, message: 'hides all other tests', where: isScript },
  {
    pattern: /\b(it|test|describe|suite)\.(skip|skipIf|runIf|todo|fails)\b/,
    message: "hides a test: call context.skip('why') in it, which prints its reason",
    where: isScript,
  },
  {
    pattern: /\b(context|ctx|t)\.skip\((?![^;]*['"`])/,
    message: "say why: context.skip('why')",
    where: isScript,
    everywhere: true,
  },
];

/** These two name the leftovers that they look for. */
const NAMES_LEFTOVERS = new Set(['test/tidy/text.ts', 'test/tidy/rules.test.ts']);

function leftoversIn(file: RepoFile): string[] {
  return LEFTOVERS.filter(({ where }) => where(file.path)).flatMap((leftover) => {
    const whole = leftover.everywhere === true || !isScript(file.path);
    const match = leftover.pattern.exec(whole ? file.text : codeOnly(file));
    if (match === null) return [];
    return [
      `${file.path}:${lineAt(file.text, match.index)}: ${match[0].trim()}: ${leftover.message}`,
    ];
  });
}

export const noLeftovers: Rule = (files) =>
  files.filter(({ path }) => !NAMES_LEFTOVERS.has(path)).flatMap(leftoversIn);
