(() => {
  const charts = () => [...document.querySelectorAll(".js-plotly-plot")];

  // A legend's names stand in columns, with which panels beside each other have legends of equal height; not where a chart is
  // as narrow as a phone, since they would leave no room for the curves. Before the chart is drawn: its margins stay as they
  // are then.
  const draw = Plotly.newPlot;
  Plotly.newPlot = (id, data, layout, config) => {
    const column = layout.meta?.entrywidth;
    if (column && document.getElementById(id).clientWidth >= 420) layout.legend.entrywidth = column;
    return draw(id, data, layout, config);
  };

  // On paper the page is narrower than on the screen, and a chart keeps the width it was drawn with. The body is given the
  // paper's width before the charts are asked to fit, since the browser lays the printed page out only afterwards.
  addEventListener("beforeprint", () => {
    document.body.classList.add("printed");
    charts().forEach((chart) => Plotly.relayout(chart, { width: chart.clientWidth }));
  });
  addEventListener("afterprint", () => {
    document.body.classList.remove("printed");
    charts().forEach((chart) => Plotly.relayout(chart, { width: null, autosize: true }));
  });
})();
