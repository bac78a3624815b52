/**
 * A long list of which only the rows in sight exist. It is painted at most once a frame, however often it is told that
 * something changed, so its cost does not depend on the rate of messages.
 */

/** What is listed. `first` is the number of the first item: it grows when old items are dropped. */
export interface ListSource<T> {
  readonly first: number;
  readonly length: number;
  at(index: number): T | undefined;
}

export interface ListOptions<T> {
  /** Writes the item into the row, which may hold another item's cells. */
  readonly paint: (row: HTMLElement, item: T) => void;
  /** An item was chosen by click or Enter. */
  readonly open: (item: T) => void;
  /** The reader scrolled to the end, or away from it. */
  readonly follow?: (atEnd: boolean) => void;
}

/** Rows beyond the edges, so that a scroll does not show blanks before the next frame. */
const MARGIN_ROWS = 6;

export class List<T> {
  private readonly place: HTMLElement;
  private readonly options: ListOptions<T>;
  private readonly sizer: HTMLElement;
  private readonly rows: HTMLElement[] = [];
  private source: ListSource<T> | undefined;
  /** The number (not index) of the item that the keyboard is on, and of the one that is open. */
  private active = -1;
  private opened = -1;
  private frame = 0;
  private pinned = false;
  private scrolledTo = -1;

  constructor(place: HTMLElement, options: ListOptions<T>) {
    this.place = place;
    this.options = options;
    this.sizer = document.createElement("div");
    this.sizer.className = "sizer";
    this.sizer.setAttribute("role", "presentation");
    place.append(this.sizer);
    place.addEventListener("scroll", () => this.scrolled(), { passive: true });
    place.addEventListener("keydown", (event) => this.keyed(event));
    place.addEventListener("click", (event) => this.clicked(event));
    new ResizeObserver(() => this.refresh()).observe(place);
  }

  /** Shows a source; `pinned` keeps the end in sight. */
  show(source: ListSource<T>, pinned: boolean): void {
    this.source = source;
    this.pinned = pinned;
    this.refresh();
  }

  /** Another list of things: no row is active, and the top is in sight. */
  reset(): void {
    this.active = -1;
    this.opened = -1;
    this.place.scrollTop = 0;
    this.scrolledTo = 0;
    this.refresh();
  }

  /** Opens the row at an index, and brings it into sight. */
  openAt(index: number): void {
    if (this.source === undefined) return;
    this.active = this.source.first + index;
    this.paint();
    this.place.scrollTop = Math.max(0, (index + 0.5) * this.rowHeight() - this.place.clientHeight / 2);
    this.openActive();
  }

  /** No row is open any more. */
  closeRow(): void {
    this.opened = -1;
    this.refresh();
  }

  /** The source changed. */
  refresh(): void {
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.paint());
  }

  private rowHeight(): number {
    return Number.parseFloat(getComputedStyle(this.place).getPropertyValue("--row")) || 32;
  }

  private paint(): void {
    this.frame = 0;
    const { source, place, rows } = this;
    if (source === undefined || place.clientHeight === 0) return;
    const height = this.rowHeight();
    this.sizer.style.height = `${source.length * height}px`;
    if (this.pinned) this.scrollTo(source.length * height - place.clientHeight);

    const from = Math.max(0, Math.floor(place.scrollTop / height) - MARGIN_ROWS);
    const to = Math.min(source.length, Math.ceil((place.scrollTop + place.clientHeight) / height) + MARGIN_ROWS);
    while (rows.length < to - from) rows.push(this.makeRow(rows.length));
    // A row keeps its item while scrolling, so that few rows change in a frame.
    const used = new Set<number>();
    let activeId: string | undefined;
    for (let index = from; index < to; index += 1) {
      const item = source.at(index);
      const row = rows[(source.first + index) % rows.length];
      if (item === undefined || row === undefined) continue;
      used.add((source.first + index) % rows.length);
      const number = source.first + index;
      row.hidden = false;
      row.style.transform = `translateY(${index * height}px)`;
      row.dataset["index"] = String(index);
      row.setAttribute("aria-posinset", String(index + 1));
      row.setAttribute("aria-setsize", String(source.length));
      row.setAttribute("aria-selected", String(number === this.opened));
      row.classList.toggle("active", number === this.active);
      if (number === this.active) activeId = row.id;
      this.options.paint(row, item);
    }
    rows.forEach((row, slot) => {
      if (!used.has(slot)) row.hidden = true;
    });
    if (activeId === undefined) place.removeAttribute("aria-activedescendant");
    else place.setAttribute("aria-activedescendant", activeId);
  }

  private makeRow(slot: number): HTMLElement {
    const row = document.createElement("div");
    row.id = `${this.place.id}-row-${slot}`;
    row.className = "row";
    row.setAttribute("role", "option");
    this.sizer.append(row);
    return row;
  }

  private scrollTo(top: number): void {
    this.place.scrollTop = Math.max(0, top);
    this.scrolledTo = this.place.scrollTop;
  }

  private scrolled(): void {
    const { place } = this;
    // What the list itself did is not the reader's wish.
    if (place.scrollTop === this.scrolledTo) return;
    this.scrolledTo = place.scrollTop;
    this.refresh();
    this.options.follow?.(place.scrollTop + place.clientHeight >= place.scrollHeight - 2);
  }

  private clicked(event: MouseEvent): void {
    const row = event.target instanceof Element ? event.target.closest<HTMLElement>("[role=option]") : null;
    if (row === null || this.source === undefined) return;
    this.active = this.source.first + Number(row.dataset["index"]);
    this.openActive();
  }

  private keyed(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey || this.source === undefined) return;
    const page = Math.max(1, Math.floor(this.place.clientHeight / this.rowHeight()) - 1);
    switch (event.key) {
      case "ArrowDown":
      case "j":
        this.move(1);
        break;
      case "ArrowUp":
      case "k":
        this.move(-1);
        break;
      case "PageDown":
        this.move(page);
        break;
      case "PageUp":
        this.move(-page);
        break;
      case "Home":
        this.move(-this.source.length);
        break;
      case "End":
        this.move(this.source.length);
        break;
      case "Enter":
        this.openActive();
        break;
      default:
        return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private move(by: number): void {
    const { source } = this;
    if (source === undefined || source.length === 0) return;
    const last = source.length - 1;
    // From nowhere the first key enters the list at the row that is in sight: the end of a live list, the top of a page.
    const start = this.active < source.first ? (this.pinned ? last + 1 : -1) : this.active - source.first;
    const index = Math.min(last, Math.max(0, start + by));
    this.active = source.first + index;
    this.reveal(index);
    this.refresh();
  }

  private reveal(index: number): void {
    const { place } = this;
    const height = this.rowHeight();
    const top = index * height;
    if (top < place.scrollTop) place.scrollTop = top;
    else if (top + height > place.scrollTop + place.clientHeight) place.scrollTop = top + height - place.clientHeight;
  }

  private openActive(): void {
    const item = this.source?.at(this.active - this.source.first);
    if (item === undefined) return;
    this.opened = this.active;
    this.options.open(item);
    this.refresh();
  }
}
