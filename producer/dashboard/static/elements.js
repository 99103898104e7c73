// Elements of the page that stay the same ones while their texts change, so that the focus stays where it is.
// All texts are set as texts: whatever a name has in it, it is never read as HTML.

export const byId = (id) => document.getElementById(id)

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text) element.textContent = text
  return element
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

// One child for each key, in this order: made once, then only brought up to date.
export function keyed(parent, keys, create, update) {
  const known = (parent.known ??= new Map())
  const wanted = new Set(keys)
  for (const [key, element] of known) {
    if (!wanted.has(key)) {
      element.remove()
      known.delete(key)
    }
  }
  const focused = document.activeElement
  let place = parent.firstElementChild
  for (const key of keys) {
    let element = known.get(key)
    if (!element) known.set(key, (element = create(key)))
    update(element, key)
    if (element === place) place = place.nextElementSibling
    else parent.insertBefore(element, place)
  }
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true })
}

// A table's body, row by row; cells whose column is in `numbers` are aligned as such.
export function fillTable(table, rows, numbers = []) {
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent)
  table.hidden = rows.length === 0
  keyed(
    table.tBodies[0],
    rows.map((_, place) => place),
    () => {
      const row = make("tr")
      titles.forEach((title, place) => {
        const cell = make("td", numbers.includes(place) ? "number" : "")
        cell.dataset.label = title
        row.append(cell)
      })
      return row
    },
    (row, place) => rows[place].forEach((text, column) => setText(row.cells[column], text)),
  )
}

export function fillList(list, texts) {
  list.hidden = texts.length === 0
  keyed(list, texts.map((_, place) => place), () => make("li"), (item, place) => setText(item, texts[place]))
}

export const count = (number) => number.toLocaleString("en")

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "?"
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`
}

export const mebibytes = (bytes) => (bytes ? `${count(Math.round(bytes / 2 ** 20))} MiB` : "0")

// A colour for each job, always the same.
export function hueOf(job) {
  return (parseInt(job.slice(-6), 16) * 137.508) % 360
}

// Server-sent events as one object of values by key, as long as somebody looks at the page.
export class Stream {
  constructor(url, show) {
    this.url = url
    this.show = show
    this.values = {}
    this.ahead = 0 // seconds by which the server's clock is ahead of ours
    this.state = "connecting"
    this.onVisible = () => (document.hidden ? this.stop() : this.start())
    document.addEventListener("visibilitychange", this.onVisible)
    this.onVisible()
  }

  start() {
    if (this.source) return
    this.source = new EventSource(this.url)
    this.source.addEventListener("whole", (event) => this.take(JSON.parse(event.data), {}))
    this.source.addEventListener("change", (event) => this.take(JSON.parse(event.data), this.values))
    this.source.onerror = () => {
      this.state = "lost"
      this.show(new Set())
      if (this.source?.readyState === EventSource.CLOSED) {
        this.stop()
        this.again = setTimeout(() => this.onVisible(), 3000)
      }
    }
  }

  take(told, before) {
    const changed = new Set([...Object.keys(told.values), ...told.gone])
    if (before !== this.values) for (const key of Object.keys(this.values)) changed.add(key)
    this.values = { ...before, ...told.values }
    for (const key of told.gone) delete this.values[key]
    this.ahead = told.now - Date.now() / 1000
    this.state = "live"
    this.show(changed)
  }

  get now() {
    return Date.now() / 1000 + this.ahead
  }

  stop() {
    this.source?.close()
    this.source = undefined
  }

  end() {
    clearTimeout(this.again)
    document.removeEventListener("visibilitychange", this.onVisible)
    this.stop()
  }
}
