(function () {
  var plots = Array.prototype.slice.call(document.querySelectorAll('.plot'));
  var options = {displaylogo: false, responsive: true};
  plots.forEach(function (plot) {
    var spec = JSON.parse(document.getElementById(plot.id + '-data').textContent);
    Plotly.newPlot(plot, spec.data, spec.layout, options).then(
      function () { plot.setAttribute('data-drawn', 'yes'); },
      function (error) { plot.className += ' error'; plot.textContent = 'This figure could not be drawn: ' + error; });
  });
  function fit(width) {
    plots.forEach(function (plot) { Plotly.relayout(plot, {width: width, autosize: width === null}); });
  }
  window.addEventListener('beforeprint', function () {
    document.querySelectorAll('details').forEach(function (details) { details.open = true; });
    fit(680);
  });
  window.addEventListener('afterprint', function () { fit(null); });
})();
