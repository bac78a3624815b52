/**
 * A short table that is painted again and again. Rows keep their place in the document while their item is listed, and
 * with it the focus and what is selected. On a narrow screen each row becomes a card, so every cell knows its title.
 */

import { button, make } from "./dom.ts";

export interface Column<T> {
  readonly title: string;
  /** What kind of thing it shows: `number`, `name`, `words`. */
  readonly kind: "number" | "name" | "words";
  readonly text: (item: T) => string;
  /** Whether the cell wants to be looked at. */
  readonly warn?: (item: T) => boolean;
}

export interface TableOptions<T> {
  /** What the table lists, for those who do not see it. */
  readonly label: string;
  readonly columns: readonly Column<T>[];
  readonly key: (item: T) => string;
  /** What a person calls the item. */
  readonly name: (item: T) => string;
  /** Opens the item: the first cell becomes a button. */
  readonly open?: (item: T) => void;
  /** Each row can be ticked; called after every change. */
  readonly ticked?: () => void;
  readonly actions?: readonly RowAction<T>[];
}

export interface RowAction<T> {
  readonly label: (item: T) => string;
  readonly act: (item: T) => void;
  readonly offered?: (item: T) => boolean;
}

interface Row<T> {
  item: T;
  readonly element: HTMLTableRowElement;
  readonly tick: HTMLInputElement | undefined;
  readonly cells: readonly HTMLElement[];
  readonly buttons: readonly HTMLButtonElement[];
}

export class Table<T> {
  private readonly options: TableOptions<T>;
  private readonly place: HTMLElement;
  private readonly body = make("tbody");
  private readonly every: HTMLInputElement | undefined;
  private readonly rows = new Map<string, Row<T>>();
  private opened: string | undefined;

  constructor(place: HTMLElement, options: TableOptions<T>) {
    this.options = options;
    this.place = place;
    const head = make("tr");
    if (options.ticked !== undefined) {
      this.every = checkbox("Select all", () => this.tickAll(this.every?.checked === true));
      head.append(make("th", "tick", this.every));
    }
    head.append(...options.columns.map(({ title, kind }) => make("th", kind, title)));
    if (options.actions !== undefined) head.append(make("th", "doing", make("span", "unseen", "Actions")));
    for (const cell of head.children) cell.setAttribute("scope", "col");
    const table = make("table", "", make("thead", "", head), this.body);
    table.setAttribute("aria-label", options.label);
    place.replaceChildren(table);
    place.hidden = true;
  }

  /** The items that are ticked. */
  get selected(): readonly T[] {
    return [...this.rows.values()].filter((row) => row.tick?.checked === true).map((row) => row.item);
  }

  /** Lists these; without any the table is not there. */
  show(items: readonly T[]): void {
    const keys = new Set(items.map(this.options.key));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.rows.delete(key);
    }
    items.forEach((item, index) => {
      const key = this.options.key(item);
      const row = this.rows.get(key) ?? this.makeRow(item);
      this.rows.set(key, row);
      row.item = item;
      this.paint(row);
      // Only what is not there already is moved: moving an element takes the focus from it.
      if (this.body.children[index] !== row.element) this.body.insertBefore(row.element, this.body.children[index] ?? null);
    });
    this.place.hidden = items.length === 0;
    this.mark(this.opened);
    this.told();
  }

  /** Which item is open beside the table. */
  mark(key: string | undefined): void {
    this.opened = key;
    for (const [other, { element }] of this.rows) {
      if (other === key) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
  }

  tickAll(on: boolean): void {
    for (const { tick } of this.rows.values()) if (tick !== undefined) tick.checked = on;
    this.told();
  }

  private told(): void {
    if (this.every !== undefined) {
      const ticked = this.selected.length;
      this.every.checked = ticked > 0 && ticked === this.rows.size;
      this.every.indeterminate = ticked > 0 && ticked < this.rows.size;
    }
    this.options.ticked?.();
  }

  private makeRow(first: T): Row<T> {
    const { columns, actions = [], open, ticked, name } = this.options;
    const element = make("tr");
    const tick = ticked === undefined ? undefined : checkbox(`Select ${name(first)}`, () => this.told());
    if (tick !== undefined) element.append(make("td", "tick", tick));
    const cells = columns.map(({ title, kind }, index) => {
      const opens = index === 0 && open !== undefined;
      const inner = opens ? button("", "opens", () => open(row.item)) : make("span");
      const cell = make("td", kind, inner);
      cell.dataset["title"] = title;
      element.append(cell);
      return inner;
    });
    const buttons = actions.map(({ act }) => button("", "small", () => act(row.item)));
    if (buttons.length > 0) element.append(make("td", "doing", ...buttons));
    const row: Row<T> = { item: first, element, tick, cells, buttons };
    return row;
  }

  private paint({ item, cells, buttons }: Row<T>): void {
    const { columns, actions = [], name } = this.options;
    columns.forEach(({ text, warn }, index) => {
      const cell = cells[index];
      const words = text(item);
      if (cell === undefined) return;
      if (cell.textContent !== words) cell.textContent = words;
      cell.classList.toggle("warn", warn?.(item) === true);
    });
    actions.forEach(({ label, offered }, index) => {
      const control = buttons[index];
      if (control === undefined) return;
      control.hidden = offered?.(item) === false;
      control.textContent = label(item);
      control.setAttribute("aria-label", `${label(item)} ${name(item)}`);
    });
  }
}

function checkbox(label: string, changed: () => void): HTMLInputElement {
  const input = make("input");
  input.type = "checkbox";
  input.setAttribute("aria-label", label);
  input.addEventListener("change", changed);
  return input;
}
