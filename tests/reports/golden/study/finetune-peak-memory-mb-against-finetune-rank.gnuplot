# Drawn again by: gnuplot finetune-peak-memory-mb-against-finetune-rank.gnuplot
set encoding utf8
set terminal svg size 817,420 noenhanced font 'Helvetica,14' background 'white' rounded
set output 'finetune-peak-memory-mb-against-finetune-rank.svg'
set border 3 linecolor rgb '#555555'
set tics nomirror out textcolor rgb '#222222'
set grid linecolor rgb '#E3E3E3' linewidth 1 linetype 1
set errorbars 1.2
set title 'finetune peak memory (MB) against finetune.rank'
set xlabel 'finetune.rank (with finetune.alpha)'
set ylabel 'finetune peak memory (MB)'
set logscale x
set xrange [1.8403753012497504:8.693878900208464]
set yrange [415.68:2512.32]
set format y '%.0f'
set format x '%g'
unset mxtics
set xtics (2, 4, 8)
set rmargin at screen 0.7222
set key at screen 0.7344,0.5 left center vertical maxcols 1 Left reverse samplen 2 spacing 1.25
$d2 << EOD
2 2400 2 2 2400 2400
8 2400 8 8 2400 2400
EOD
$r2 << EOD
2 2400 2 2 2400 2400
8 2400 8 8 2400 2400
EOD
$d0 << EOD
2 908 2 2 908 908
4 916 4 4 916 916
8 932 8 8 932 932
EOD
$r0 << EOD
2 908 2 2 908 908
4 916 4 4 916 916
8 932 8 8 932 932
EOD
$d1 << EOD
2 528 2 2 528 528
4 536 4 4 536 536
8 552 8 8 552 552
EOD
$r1 << EOD
2 528 2 2 528 528
4 536 4 4 536 536
8 552 8 8 552 552
EOD
plot $d2 using 1:2 with lines linewidth 1.5 dashtype 4 linecolor rgb '#009E73' title 'Full fine-tuning', \
     $r0 using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 linecolor rgb '#0072B2' notitle, \
     $d0 using 1:2 with linespoints pointtype 7 pointsize 0.9 linewidth 2 dashtype 1 linecolor rgb '#0072B2' title 'lora', \
     $r1 using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 linecolor rgb '#D55E00' notitle, \
     $d1 using 1:2 with linespoints pointtype 5 pointsize 0.9 linewidth 2 dashtype 1 linecolor rgb '#D55E00' title 'qlora'
