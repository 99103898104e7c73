// All that goes on: jobs, workers with their slots, models. Each event says what has changed, and only that is drawn.

import { byId, count, duration, fillList, fillTable, hueOf, keyed, make, mebibytes, setText, Stream } from "./elements.js"
import { mayChange, press, setUp } from "./buttons.js"
import { closeJob, openJob } from "./job.js"

const PRIORITIES = ["interactive", "normal", "bulk"]
const MOST_SLOTS_LISTED = 200
const MOST_ENDED = 20 // of jobs that have ended, until all are asked for
const jobsBody = byId("jobs-table").tBodies[0]
const titles = [...byId("jobs-table").tHead.rows[0].cells].map((cell) => cell.textContent)

const stream = new Stream("events", show)
setUp(() => show(new Set(Object.keys(stream.values))))
setInterval(() => stream.state === "live" && showTimes(), 1000)
addEventListener("hashchange", follow)
byId("more-jobs").addEventListener("click", () => {
  byId("more-jobs").pressed = true
  showJobs(new Set())
  byId("jobs").focus()
})
follow()

function follow() {
  const job = /^#job=([0-9a-f]+)$/.exec(location.hash)?.[1]
  if (job) openJob(job)
  else if (location.hash === "") closeJob()
}

function keysOf(kind) {
  return Object.keys(stream.values).filter((key) => key.startsWith(kind))
}

function show(changed) {
  const words = { live: "live", lost: "connection lost, trying again", connecting: "connecting" }
  const problem = stream.values.problem ?? ""
  setText(byId("link"), problem ? "live, but see below" : words[stream.state])
  byId("link").dataset.state = problem ? "lost" : stream.state
  setText(byId("problem"), problem)
  byId("problem").hidden = !problem
  fillList(byId("notes"), stream.values.notes ?? [])
  const kinds = new Set([...changed].map((key) => key.split(":", 1)[0]))
  if (kinds.has("job")) showJobs(changed)
  if (kinds.has("worker")) showWorkers(changed)
  if (kinds.has("model")) showModels()
  if (changed.size) showSum()
  if (stream.state === "live" && !document.body.dataset.ready) {
    document.body.dataset.ready = "yes"
    document.body.dataset.readyAt = Math.round(performance.now())
  }
}

function showSum() {
  const jobs = keysOf("job:").map((key) => stream.values[key])
  const slots = keysOf("worker:").flatMap((key) => stream.values[key].slots)
  const running = jobs.filter((job) => job.state === "running").length
  const busy = slots.filter((slot) => slot[2]).length
  setText(byId("sum"), `${count(running)} of ${count(jobs.length)} jobs run, ${count(busy)} of ${count(slots.length)} slots`)
}

function showJobs(changed) {
  const keys = keysOf("job:")
  const runs = (key) => stream.values[key].state === "running"
  // Running ones by when they began, then the others by when they ended, the last first.
  const moment = (key) => stream.values[key][runs(key) ? "submitted" : "updated"]
  keys.sort((one, other) => runs(other) - runs(one) || moment(other) - moment(one))
  const most = keys.filter(runs).length + MOST_ENDED
  const more = byId("more-jobs")
  more.hidden = keys.length <= most || more.pressed === true
  setText(more, `Show all ${count(keys.length)} jobs`)
  if (!more.hidden) keys.length = most
  byId("no-jobs").hidden = keys.length > 0
  byId("jobs-table").hidden = keys.length === 0
  keyed(jobsBody, keys, makeJob, (row, key) => (changed.has(key) || !row.parts.shown) && updateJob(row, stream.values[key]))
}

function makeJob(key) {
  const row = make("tr")
  const id = key.slice(4)
  const cells = titles.map((title, place) => {
    const cell = make(place ? "td" : "th", place === 8 ? "act" : "")
    cell.dataset.label = title
    row.append(cell)
    return cell
  })
  cells[0].scope = "row"
  const link = make("a", "job", id)
  link.href = `#job=${id}`
  const dot = make("span", "dot")
  dot.style.setProperty("--hue", hueOf(id))
  cells[0].append(dot, link)
  const state = make("span", "badge")
  cells[1].append(state)
  const bar = make("progress")
  bar.max = 1
  bar.setAttribute("aria-label", `Progress of job ${id}`)
  const far = make("span", "far")
  cells[4].append(bar, far)
  const notes = make("span", "error")
  cells[3].append(make("span"), notes)
  const priority = make("select")
  priority.setAttribute("aria-label", `Priority of job ${id}`)
  for (const name of PRIORITIES) priority.append(new Option(name))
  priority.addEventListener("change", async () => {
    await press(`jobs/${id}/priority`, { priority: priority.value })
    updateJob(row, stream.values[key])
  })
  const shown = make("span")
  cells[7].append(shown, priority)
  const cancel = make("button", "", "Cancel")
  cancel.type = "button"
  cancel.setAttribute("aria-label", `Cancel job ${id}`)
  cancel.addEventListener("click", () => {
    const kept = stream.values[key]?.detached ? " Its rows and outputs will be gone." : " Its queued chunks are never run."
    press(`jobs/${id}/cancel`, undefined, `Cancel job ${id}?${kept}`, "Yes, cancel it")
  })
  cells[8].append(cancel)
  row.parts = { state, bar, far, notes, priority, shown, cancel, cells }
  return row
}

function updateJob(row, job) {
  if (!job) return
  const { state, bar, far, notes, priority, shown, cancel, cells } = row.parts
  row.parts.shown = job
  const runs = job.state === "running"
  setText(state, job.state)
  state.dataset.state = job.state
  setText(cells[2], job.models.join(", "))
  setText(cells[3].firstChild, job.input + (job.detached ? " (detached)" : ""))
  setText(notes, job.notes.join("; "))
  bar.hidden = !job.rows
  if (job.rows) bar.value = job.done / job.rows
  const percent = job.rows ? `, ${Math.floor((100 * job.done) / job.rows)} %` : ""
  setText(far, `${count(job.done)} of ${job.rows === null ? "?" : count(job.rows)} rows${percent}`)
  setText(cells[6], job.failed ? count(job.failed) : "0")
  cells[6].classList.toggle("error", job.failed > 0)
  setText(shown, job.priority)
  const may = mayChange() && runs
  shown.hidden = may
  const mayCancel = may || (mayChange() && job.detached && job.state === "done")
  if (!mayCancel && [cancel, priority].includes(document.activeElement)) row.querySelector("a").focus()
  priority.hidden = !may
  cancel.hidden = !mayCancel
  if (may && document.activeElement !== priority) {
    if (![...priority.options].some((one) => one.value === job.priority)) priority.append(new Option(job.priority))
    priority.value = job.priority
  }
  setText(cells[5], timeOf(job))
}

function timeOf(job) {
  if (job.state !== "running") return `took ${duration(job.updated - job.submitted)}, ${duration(stream.now - job.updated)} ago`
  const since = `for ${duration(stream.now - job.submitted)}`
  const rate = job.rate ? `, ${count(Math.round(job.rate))} rows/s` : ""
  const left = job.rate && job.rows !== null ? `, ${duration((job.rows - job.done) / job.rate)} left` : ""
  return `${since}${rate}${left}${job.slots ? "" : ", no slot can run it now"}`
}

function showTimes() {
  for (const row of jobsBody.rows) if (row.parts.shown) setText(row.parts.cells[5], timeOf(row.parts.shown))
}

function showWorkers(changed) {
  const keys = keysOf("worker:").sort()
  byId("no-workers").hidden = keys.length > 0
  keyed(byId("worker-list"), keys, makeWorker, (card, key) => changed.has(key) && updateWorker(card, key))
}

function makeWorker(key) {
  const node = key.slice(7)
  const card = make("article", "worker")
  const about = make("p", "quiet")
  const buttons = make("p", "act")
  const button = (command, text, question) => {
    const one = make("button", "", text)
    one.type = "button"
    one.setAttribute("aria-label", `${text} ${node}`)
    one.addEventListener("click", () => press(`workers/${encodeURIComponent(node)}/${command}`, undefined, question, `Yes, ${text.toLowerCase()}`))
    buttons.append(one)
    return one
  }
  const drain = button("drain", "Drain", `Drain ${node}? It ends what runs and takes nothing more until it is resumed.`)
  const resume = button("resume", "Resume")
  const reload = button("reload", "Reload models", `Reload the models of ${node}? New jobs get the new versions.`)
  const slots = make("ol", "slots")
  slots.setAttribute("aria-label", `Slots of ${node}`)
  const details = make("details")
  const list = make("ul", "runs")
  details.append(make("summary", "", "What each slot runs"), list)
  details.addEventListener("toggle", () => updateWorker(card, key))
  card.append(make("h3", "", node), about, slots, buttons, details)
  card.parts = { about, slots, buttons, drain, resume, reload, details, list }
  return card
}

function updateWorker(card, key) {
  const worker = stream.values[key]
  if (!worker) return
  const { about, slots, buttons, drain, resume, reload, details, list } = card.parts
  const busy = worker.slots.filter((slot) => slot[2]).length
  const words = [`${count(worker.slots.length)} slots, ${count(busy)} run a chunk`]
  if (worker.draining) words.unshift("drains: takes nothing more")
  if (worker.preparing) words.unshift(worker.preparing)
  if (worker.cores) words.push(`${worker.cores} cores, ${worker.gpus} GPUs, ${worker.threads || "?"} threads a slot`)
  if (worker.models.length) words.push(worker.models.join(", "))
  setText(about, words.join("; "))
  card.classList.toggle("draining", worker.draining)
  const byNumber = new Map(worker.slots.map((slot) => [slot[0], slot]))
  keyed(
    slots,
    [...byNumber.keys()],
    () => make("li"),
    (item, number) => {
      const [, pid, job, text, seconds] = byNumber.get(number)
      const told = job ? `runs ${text}, for ${duration(seconds)}` : "waits for a chunk"
      item.title = `slot ${number}${pid ? `, process ${pid}` : ""}: ${told}`
      item.className = job ? "busy" : ""
      if (job) item.style.setProperty("--hue", hueOf(job))
      item.setAttribute("aria-label", item.title)
    },
  )
  buttons.hidden = !mayChange()
  drain.hidden = worker.draining
  resume.hidden = !worker.draining
  reload.hidden = worker.draining
  if (details.open) {
    const lines = worker.slots.slice(0, MOST_SLOTS_LISTED)
    fillList(list, lines.map(([number, , job, text, seconds]) => `${number}: ${job ? `${text}, for ${duration(seconds)}` : "waits"}`))
  }
}

function showModels() {
  const models = keysOf("model:").sort().map((key) => stream.values[key])
  byId("no-models").hidden = models.length > 0
  fillTable(
    byId("models-table"),
    models.map((model) => [
      model.name,
      model.digest.slice(0, 8),
      model.executor,
      count(model.batch),
      model.rate ? count(Math.round(model.rate)) : "?",
      mebibytes(model.own),
      mebibytes(model.shared),
      held(model.places),
      model.notes.join("; "),
    ]),
    [3, 4, 5, 6],
  )
}

function held(places) {
  const slots = places.reduce((sum, [, many]) => sum + many, 0)
  const named = places.slice(0, 5).map(([node, many]) => `${node} (${many})`)
  const more = places.length > 5 ? ` and ${places.length - 5} more` : ""
  return `${count(slots)} slots: ${named.join(", ")}${more}`
}
