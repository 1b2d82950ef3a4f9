// What is being said: guesses pale, heard words underlined in the colour of what was read while they were spoken.

import { EMOTIONS } from "./emotions.js";

const SHOWN = 48;

export class Words {
  constructor() {
    this.place = document.getElementById("words");
    this.drawn = "";
  }

  /** `until`: only words spoken up to then (session ms), or null for all with the tentative ones. */
  show(minute, until) {
    const words = minute.words.filter((word) => until === null || word.end <= until + 400).slice(-SHOWN);
    const tentative = until === null ? minute.tentative.slice(-20) : [];
    const moods = words.map((word) => moodOf(minute, word));
    const key = words.map((word, k) => `${word.text}${word.begin}${moods[k]}`).join() + tentative.join() + until;
    if (key === this.drawn) return;
    this.drawn = key;
    const spans = words.map((word, k) => span(word.text, moods[k] ? `word ${moods[k]}` : "word", moods[k]));
    spans.push(...tentative.map((text) => span(text, "tentative")));
    if (!spans.length) spans.push(span(until === null ? "Nothing has been said yet." : "Nothing had been said.", "nothing"));
    this.place.replaceChildren(...spans.flatMap((one) => [one, " "]));
    this.place.scrollTop = this.place.scrollHeight;
  }
}

function span(text, kind, mood) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  if (mood) made.title = `read as ${mood} while it was said`;
  return made;
}

/** The emotion that led while a word was spoken; once known it stays, the readings themselves are gone after a minute. */
function moodOf(minute, word) {
  if (word.settled) return word.mood;
  const one = minute.at(word.end);
  if (one) {
    word.mood = one.top >= 0 ? EMOTIONS[one.top] : "";
    word.settled = one.final;
  }
  return word.mood ?? "";
}
