// The way back from optuna-dashboard to the lab's pages.
"use strict";
const back = document.createElement("a");
back.href = "/";
back.textContent = "← hpo";
back.id = "hpo-back";
document.body.append(back);
