// One job: how far it is, its pictures, which are those of `celeriac report`, and its failures.

import { byId, count, fillList, fillTable, setText, Stream } from "./elements.js"

const CHARTS = ["lanes", "rate", "flight", "stages"]
const LEAST_WIDTH = 600 // of a page that has room for the names of slots beside a picture
const dark = matchMedia("(prefers-color-scheme: dark)")
let stream, plotly, shownJob

dark.addEventListener("change", () => stream && draw(CHARTS))
byId("close-job").addEventListener("click", () => {
  const link = document.querySelector(`a[href="#job=${shownJob}"]`)
  history.pushState(null, "", location.pathname)
  closeJob()
  link?.focus()
})

export function openJob(job) {
  if (job === shownJob) return
  closeJob()
  shownJob = job
  setText(byId("job-title"), `Job ${job}`)
  for (const id of ["job-verdict", "job-about"]) setText(byId(id), "")
  for (const id of ["failures", "events", "ledger"]) fillTable(byId(id), [])
  byId("job").hidden = false
  byId("job-title").focus()
  stream = new Stream(`jobs/${job}/events`, show)
}

export function closeJob() {
  stream?.end()
  stream = shownJob = undefined
  byId("job").hidden = true
  for (const name of CHARTS) {
    if (window.Plotly) Plotly.purge(byId(`chart-${name}`))
  }
}

function show(changed) {
  const { head, problem, failures, events = [], ledger = [] } = stream.values
  const lost = stream.state === "lost" ? ["connection lost, trying again"] : []
  fillList(byId("job-notes"), [...lost, problem, head?.note, ...(head?.notes ?? [])].filter(Boolean))
  if (!head) return
  setText(byId("job-verdict"), head.verdict)
  setText(byId("job-about"), `${head.models.join(", ")} over ${head.input}, by ${head.producer}`)
  if (changed.has("failures")) {
    const { failed, known, records } = failures
    const more = known > records.length ? `The first ${count(records.length)} records. ` : ""
    setText(byId("no-failures"), failed || known ? `${more}${count(failed)} rows failed.` : "No row has failed.")
    fillTable(byId("failures"), records)
  }
  if (changed.has("events")) {
    byId("no-events").hidden = events.length > 0
    fillTable(byId("events"), events, [0, 2])
  }
  if (changed.has("ledger")) fillTable(byId("ledger"), ledger, [1])
  draw(CHARTS.filter((name) => changed.has(`chart:${name}`)))
}

async function draw(names) {
  const job = shownJob
  byId("no-lanes").hidden = "chart:lanes" in stream.values
  if (!names.length) return
  await (plotly ??= load())
  for (const name of names) {
    const figure = job === shownJob && stream.values[`chart:${name}`]
    if (figure) await Plotly.react(`chart-${name}`, figure.data.map(themed), layoutOf(figure.layout), OPTIONS)
  }
  document.body.dataset.drawn = shownJob ?? ""
}

const OPTIONS = { displayModeBar: false, responsive: true, scrollZoom: false }

function load() {
  return new Promise((done, fail) => {
    const script = document.createElement("script")
    script.src = "plotly.js"
    script.onload = done
    script.onerror = fail
    document.head.append(script)
  })
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

// The report's pictures are on white paper.
function themed(trace) {
  if (trace.textposition === "outside" && innerWidth < LEAST_WIDTH) trace = { ...trace, textposition: "auto" }
  const own = { waiting: "--waiting", away: "--away", "waiting in a queue": "--queued" }[trace.name]
  if (!dark.matches || !own) return trace
  const marker = trace.marker && { ...trace.marker, color: colour(own) }
  return { ...trace, ...(marker && { marker }), ...(trace.fillcolor && { fillcolor: colour(own) }) }
}

function layoutOf(layout) {
  const narrow = innerWidth < LEAST_WIDTH
  const axis = { gridcolor: colour("--grid"), zerolinecolor: colour("--grid"), linecolor: colour("--grid"), fixedrange: true }
  return {
    ...layout,
    width: undefined,
    paper_bgcolor: colour("--card"),
    plot_bgcolor: colour("--card"),
    font: { ...layout.font, color: colour("--ink"), size: narrow ? 11 : 12 },
    margin: { ...layout.margin, ...(narrow && { l: 48, r: 12 }) },
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis, automargin: true },
    dragmode: false,
    uirevision: "kept",
  }
}
