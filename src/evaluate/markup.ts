/** HTML and SVG made of templates: what is put in is text, and escaped, unless it is markup. */

/** Markup that is put in as it is. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Part = Markup | string | number | null | readonly (Markup | null)[];

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text as it may stand between tags and in attributes, without what XML forbids. */
export function escapeText(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what XML forbids
  const allowed = text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '');
  return allowed.replace(/[&<>"']/g, (character) => ENTITIES[character]);
}

function partText(part: Part): string {
  if (part === null) return '';
  if (part instanceof Markup) return part.text;
  if (typeof part === 'object') return part.map(partText).join('');
  return escapeText(String(part));
}

/** A template whose parts are escaped. */
export function markup(texts: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  const whole = texts.map((text, i) => text + (i < parts.length ? partText(parts[i]) : ''));
  return new Markup(whole.join(''));
}
