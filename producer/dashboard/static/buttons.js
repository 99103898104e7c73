// What changes something: buttons that need the token, which is kept as long as this tab is open.

import { byId, setText } from "./elements.js"

const KEPT = "celeriac-token"

// It comes behind the # of the address, which browsers tell nobody; it is not left there to be copied.
const given = /^#token=([\w-]+)$/.exec(location.hash)?.[1]
if (given) {
  sessionStorage.setItem(KEPT, given)
  history.replaceState(null, "", location.pathname)
}

export const mayChange = () => sessionStorage.getItem(KEPT) !== null

export function say(text) {
  setText(byId("said"), text)
}

export function setUp(redraw) {
  const form = byId("unlock")
  const show = () => {
    form.hidden = mayChange()
    document.body.classList.toggle("may-change", mayChange())
    redraw()
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault()
    const token = byId("token").value.trim()
    byId("token").value = ""
    if (!token) return
    sessionStorage.setItem(KEPT, token)
    if (await press("token")) byId("jobs").focus()
    show()
  })
  addEventListener("locked", show)
  show()
}

// Ask the server to do something, after a question if there is one; whether it has done it.
export async function press(path, body, question, yes) {
  if (question && !(await asked(question, yes))) return false
  say("…")
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { Authorization: `Bearer ${sessionStorage.getItem(KEPT)}`, "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    })
    const told = await answer.json()
    if (answer.status === 403) {
      sessionStorage.removeItem(KEPT)
      dispatchEvent(new Event("locked"))
    }
    say(told.text)
    return answer.ok
  } catch {
    say("The dashboard does not answer; nothing was changed, as far as this page knows.")
    return false
  }
}

function asked(question, yes) {
  const dialog = byId("ask")
  setText(byId("ask-text"), question)
  setText(byId("ask-yes"), yes)
  dialog.returnValue = "no"
  dialog.showModal() // which gives the first button the focus: No
  // The close event of the question before may come only now, when the dialog is open again.
  return new Promise((done) => { dialog.onclose = () => dialog.open || done(dialog.returnValue === "yes") })
}
